//! Reads YAML events into a [`Document`].

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::document::{Document, Place, Position, dotted, pointer_segment};
use super::problem::Problem;
use super::scalar;

/// Mappings and lists inside each other.
const MAX_DEPTH: usize = 64;
/// What a file may cost in memory after the expansion of its aliases; a short value costs 1.
const MAX_COST: usize = 2_000_000;
/// Bytes of text or path that cost as much as a value.
const BYTES_PER_COST: usize = 64;

/// Reads the text into the document; what stops the reading is its last problem.
pub(super) fn read(text: &str, document: &mut Document) {
    let parser = Parser::new_from_str(text);
    let mut reader = Reader { parser, anchors: HashMap::new(), cost: 0, deepest: 0, document };
    match reader.documents() {
        Ok(value) => reader.document.value = value,
        Err(Stop(problem)) => reader.document.problems.push(*problem),
    }
}

/// A problem after which nothing more can be read.
struct Stop(Box<Problem>);

struct Anchored {
    value: Value,
    cost: usize,
    /// Levels inside it.
    height: usize,
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Anchored>,
    cost: usize,
    /// The deepest level of the value that is being read.
    deepest: usize,
    document: &'a mut Document,
}

type Read<T> = Result<T, Stop>;

impl<'a> Reader<'a> {
    fn documents(&mut self) -> Read<Value> {
        let mut value = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(value.unwrap_or_default()),
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if value.is_some() => {
                    return Err(self.stop("", span, "a second YAML document; a file holds one"));
                }
                event => value = Some(self.node(event, span, "", 0)?),
            }
        }
    }

    fn next(&mut self) -> Read<(Event<'a>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax_error(&error)),
            None => Err(Stop(Box::new(Problem::new("", "the YAML ends too early")))),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, pointer: &str, depth: usize) -> Read<Value> {
        let before = (self.cost, self.deepest);
        self.spend(1 + pointer.len() / BYTES_PER_COST, pointer, span)?;
        self.deepest = depth;
        self.check_depth(depth, pointer, span)?;
        let (value, anchor, tag) = match event {
            Event::Alias(anchor) => (self.alias(anchor, span, pointer, depth)?, 0, None),
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(text.len() / BYTES_PER_COST, pointer, span)?;
                (self.scalar(&text, style, span, pointer), anchor, tag)
            }
            Event::SequenceStart(anchor, tag) => (self.sequence(pointer, depth)?, anchor, tag),
            Event::MappingStart(anchor, tag) => (self.mapping(pointer, depth)?, anchor, tag),
            _ => return Err(self.stop(pointer, span, "expected a value")),
        };
        self.refuse_tag(tag.as_deref(), span, pointer);
        if anchor > 0 {
            let (cost, height) = (self.cost - before.0, self.deepest - depth);
            self.spend(cost, pointer, span)?;
            self.anchors.insert(anchor, Anchored { value: value.clone(), cost, height });
        }
        self.deepest = self.deepest.max(before.1);
        Ok(value)
    }

    fn alias(&mut self, anchor: usize, span: Span, pointer: &str, depth: usize) -> Read<Value> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(self.stop(pointer, span, "an alias inside the value that it refers to"));
        };
        let (cost, height) = (anchored.cost, anchored.height);
        // Both before anything is copied, so that they bound the memory.
        self.check_depth(depth + height, pointer, span)?;
        self.spend(cost, pointer, span)?;
        self.deepest = depth + height;
        Ok(self.anchors.get(&anchor).map(|anchored| anchored.value.clone()).unwrap_or_default())
    }

    fn check_depth(&self, depth: usize, pointer: &str, span: Span) -> Read<()> {
        if depth > MAX_DEPTH {
            return Err(self.stop(pointer, span, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    fn spend(&mut self, cost: usize, pointer: &str, span: Span) -> Read<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > MAX_COST {
            let message = "the file is too large (aliases count each time that they are used)";
            return Err(self.stop(pointer, span, message));
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Span, pointer: &str) -> Value {
        if style != ScalarStyle::Plain {
            return Value::String(text.to_owned());
        }
        scalar::resolve(text).unwrap_or_else(|message| {
            self.report(pointer, span, message);
            self.document.unread.push(pointer.to_owned());
            Value::Null
        })
    }

    fn sequence(&mut self, pointer: &str, depth: usize) -> Read<Value> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::Array(items));
            }
            let item = format!("{pointer}/{}", items.len());
            self.document.places.insert(item.clone(), Place { key: position(span), value: position(span) });
            items.push(self.node(event, span, &item, depth + 1)?);
        }
    }

    fn mapping(&mut self, pointer: &str, depth: usize) -> Read<Value> {
        let mut entries = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, key_span) = self.next()?;
            if event == Event::MappingEnd {
                merge(&mut entries, merged);
                return Ok(Value::Object(entries));
            }
            let key = self.key(event, key_span, pointer, depth)?;
            let (event, span) = self.next()?;
            match key {
                Key::Merge => merged.push(self.merge_value(event, span, pointer, depth)?),
                Key::Unusable => drop(self.node(event, span, pointer, depth + 1)?),
                Key::Text(key) => self.entry(&mut entries, key, key_span, (event, span), (pointer, depth))?,
            }
        }
    }

    fn entry(
        &mut self,
        entries: &mut Map<String, Value>,
        key: String,
        key_span: Span,
        (event, span): (Event<'a>, Span),
        (pointer, depth): (&str, usize),
    ) -> Read<()> {
        let child = format!("{pointer}/{}", pointer_segment(&key));
        if entries.contains_key(&key) {
            let first = self.document.key_position(&child).map_or(0, |at| at.line);
            self.report(&child, key_span, format!("given twice; the first is on line {first}"));
            // Read on under a pointer of its own: the first entry stays what messages point at.
            self.node(event, span, &format!("{child}/\u{0}second"), depth + 1)?;
            return Ok(());
        }
        self.document.places.insert(child.clone(), Place { key: position(key_span), value: position(span) });
        let value = self.node(event, span, &child, depth + 1)?;
        entries.insert(key, value);
        Ok(())
    }

    fn key(&mut self, event: Event<'a>, span: Span, pointer: &str, depth: usize) -> Read<Key> {
        match event {
            Event::Scalar(text, ScalarStyle::Plain, 0, None) if text == "<<" => Ok(Key::Merge),
            Event::Scalar(text, style, 0, None)
                if style != ScalarStyle::Plain || matches!(scalar::resolve(&text), Ok(Value::String(_))) =>
            {
                Ok(Key::Text(text.into_owned()))
            }
            Event::Scalar(text, _, 0, None) => {
                self.report(pointer, span, format!("the key `{text}` is not text; put it in quotes"));
                Ok(Key::Unusable)
            }
            event => {
                self.node(event, span, pointer, depth + 1)?;
                self.report(pointer, span, "a key must be plain text, without anchor, alias or tag");
                Ok(Key::Unusable)
            }
        }
    }

    fn merge_value(&mut self, event: Event<'a>, span: Span, pointer: &str, depth: usize) -> Read<Value> {
        let value = self.node(event, span, &format!("{pointer}/<<"), depth + 1)?;
        let usable = match &value {
            Value::Object(_) => true,
            Value::Array(items) => items.iter().all(Value::is_object),
            _ => false,
        };
        if usable {
            return Ok(value);
        }
        self.report(pointer, span, "`<<` merges a mapping or a list of mappings");
        Ok(Value::Null)
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, span: Span, pointer: &str) {
        if let Some(tag) = tag {
            self.report(pointer, span, format!("the YAML tag `{tag}` has no meaning here; remove it"));
        }
    }

    fn syntax_error(&self, error: &ScanError) -> Stop {
        let mark = error.marker();
        let at = Position { line: mark.line(), column: mark.col() + 1 };
        let problem = Problem::new("", format!("not valid YAML: {}", error.info())).at(Some(self.document.at(at)));
        Stop(Box::new(
            problem.hint("look here and above for wrong indentation, or for a bracket or quote that is left open"),
        ))
    }

    fn problem(&self, pointer: &str, span: Span, message: impl Into<String>) -> Problem {
        Problem::new(dotted(pointer), message).at(Some(self.document.at(position(span))))
    }

    fn report(&mut self, pointer: &str, span: Span, message: impl Into<String>) {
        let problem = self.problem(pointer, span, message);
        self.document.problems.push(problem);
    }

    fn stop(&self, pointer: &str, span: Span, message: impl Into<String>) -> Stop {
        Stop(Box::new(self.problem(pointer, span, message)))
    }
}

enum Key {
    Text(String),
    Merge,
    Unusable,
}

fn position(span: Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

/// Merge keys: what is written out wins, then earlier mappings over later ones.
fn merge(entries: &mut Map<String, Value>, merged: Vec<Value>) {
    for value in merged {
        match value {
            Value::Object(map) => fill(entries, map),
            Value::Array(items) => merge(entries, items),
            _ => {}
        }
    }
}

fn fill(entries: &mut Map<String, Value>, defaults: Map<String, Value>) {
    for (key, value) in defaults {
        entries.entry(key).or_insert(value);
    }
}

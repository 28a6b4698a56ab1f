//! A YAML file as a JSON value, with the place of everything in it.
//!
//! One parser gives both, so that a message can never point beside what was read. Tags, keys that are not text, numbers
//! that JSON cannot hold and duplicate keys are located problems; depth and the expansion of aliases are bounded, so
//! that a small file cannot fill the memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::problem::{Location, Problem};
use super::reader;

/// A position in the text; both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// Where an entry of a mapping or list stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) key: Position,
    pub(super) value: Position,
}

/// A parsed file.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// The content; null for an empty file.
    pub(crate) value: Value,
    /// What kept parts of the file from being read.
    pub(crate) problems: Vec<Problem>,
    /// JSON pointers of values that a problem stands for; they are null.
    pub(crate) unread: Vec<String>,
    file: PathBuf,
    lines: Vec<String>,
    pub(super) places: HashMap<String, Place>,
}

/// Which end of an entry a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Key,
    Value,
}

impl Document {
    /// Reads `text`; `file` only names it in messages.
    pub(crate) fn parse(file: &Path, text: &str) -> Self {
        let mut document =
            Self { file: file.to_path_buf(), lines: text.lines().map(str::to_owned).collect(), ..Self::default() };
        reader::read(text, &mut document);
        document
    }

    /// The place of the entry at a JSON pointer, or of the nearest entry around it.
    pub(crate) fn location(&self, pointer: &str, side: Side) -> Location {
        let mut end = pointer.len();
        loop {
            if let Some(place) = self.places.get(&pointer[..end]) {
                // Inside an alias or a merged mapping: the entry that brought it in.
                let at = if side == Side::Key || end < pointer.len() { place.key } else { place.value };
                return self.at(at);
            }
            match pointer[..end].rfind('/') {
                Some(parent) => end = parent,
                None => return self.at(Position { line: 1, column: 1 }),
            }
        }
    }

    /// The file's name for messages.
    pub(crate) fn file_name(&self) -> impl std::fmt::Display + '_ {
        self.file.display()
    }

    /// The file's directory; empty for a bare file name.
    pub(crate) fn directory(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// The position of a key in the file: the order in which the user wrote things.
    pub(crate) fn key_position(&self, pointer: &str) -> Option<Position> {
        self.places.get(pointer).map(|place| place.key)
    }

    pub(super) fn at(&self, position: Position) -> Location {
        Location {
            file: self.file.clone(),
            line: position.line,
            column: position.column,
            source_line: self.lines.get(position.line.saturating_sub(1)).cloned().unwrap_or_default(),
        }
    }
}

/// A key as one segment of a JSON pointer (RFC 6901).
pub(crate) fn pointer_segment(key: &str) -> Cow<'_, str> {
    if key.contains(['~', '/']) { Cow::Owned(key.replace('~', "~0").replace('/', "~1")) } else { Cow::Borrowed(key) }
}

/// A JSON pointer as the dotted path that the user knows: `/experiments/0/dtype` is `experiments[0].dtype`.
pub(crate) fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for segment in pointer.split('/').skip(1) {
        if segment.bytes().all(|byte| byte.is_ascii_digit()) && !segment.is_empty() {
            path.extend(["[", segment, "]"]);
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&segment.replace("~1", "/").replace("~0", "~"));
        }
    }
    path
}

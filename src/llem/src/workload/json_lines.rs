use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use llem_protocol::MAX_LINE_BYTES;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use super::error::BadLines;
use super::{WorkloadError, dataset::Prompt};

/// Longest part of a reason that repeats what the file says.
const MAX_REASON_CHARS: usize = 160;

/// Which field of a line is the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PromptField {
    /// `prompt`, as in a user's own file.
    Prompt,
    /// `prompt` or `text`: copies of built-in data sets exist with either.
    PromptOrText,
}

/// What a JSON Lines file holds.
pub(super) struct JsonLines {
    /// The prompts in file order.
    pub(super) prompts: Vec<Prompt>,
    /// SHA-256 of the file.
    pub(super) sha256: String,
}

/// A line as far as it matters here. Other fields are the user's business.
#[derive(Deserialize)]
struct Line {
    #[serde(default, deserialize_with = "present")]
    prompt: Option<String>,
    #[serde(default, deserialize_with = "present")]
    text: Option<serde_json::Value>,
    #[serde(default, deserialize_with = "present")]
    output_tokens: Option<u32>,
}

/// `null` is not a value of these fields: a field that is there has its type.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Reads a file of one JSON object a line. Reports every bad line, not only the first.
pub(super) fn read(path: &Path, field: PromptField) -> Result<JsonLines, WorkloadError> {
    let mut reader = BufReader::new(fs_err::File::open(path)?);
    let mut hash = Sha256::new();
    let mut bad = BadLines::new(path.to_owned());
    let mut prompts = Vec::new();
    for number in 1.. {
        match next_line(&mut reader, &mut hash)? {
            RawLine::End => break,
            RawLine::TooLong => bad.add(number, format!("longer than {MAX_LINE_BYTES} bytes")),
            RawLine::Complete(bytes) => match parse(&bytes, field) {
                Ok((text, output_tokens)) => prompts.push(Prompt { text, output_tokens, position: number }),
                Err(reason) => bad.add(number, reason),
            },
        }
    }
    if bad.count > 0 {
        return Err(bad.into());
    }
    Ok(JsonLines { prompts, sha256: hex::encode(hash.finalize()) })
}

enum RawLine {
    End,
    TooLong,
    Complete(Vec<u8>),
}

/// Reads one line without its line feed. Of a line that is too long, no more than the limit is held in memory.
fn next_line(reader: &mut impl BufRead, hash: &mut Sha256) -> Result<RawLine, WorkloadError> {
    let mut bytes = Vec::new();
    let limit = MAX_LINE_BYTES as u64 + 1;
    if reader.by_ref().take(limit).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(RawLine::End);
    }
    hash.update(&bytes);
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        return Ok(RawLine::Complete(bytes));
    }
    if bytes.len() <= MAX_LINE_BYTES {
        return Ok(RawLine::Complete(bytes));
    }
    while bytes.last() != Some(&b'\n') {
        bytes.clear();
        if reader.by_ref().take(limit).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        hash.update(&bytes);
    }
    Ok(RawLine::TooLong)
}

fn parse(bytes: &[u8], field: PromptField) -> Result<(String, Option<u32>), String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("not UTF-8 from byte {} on", error.valid_up_to() + 1))?
        .trim_matches([' ', '\t', '\r']);
    if text.is_empty() {
        return Err("blank".into());
    }
    if text.starts_with('\u{feff}') {
        return Err("starts with a byte order mark: save the file as UTF-8 without one".into());
    }
    if !text.starts_with('{') {
        return Err("not a JSON object: write {\"prompt\": \"…\"}".into());
    }
    let line: Line = serde_json::from_str(text).map_err(|error| describe(&error))?;
    let prompt = match (line.prompt, line.text, field) {
        (Some(prompt), _, _) => prompt,
        (None, Some(serde_json::Value::String(text)), PromptField::PromptOrText) => text,
        (None, Some(_), PromptField::PromptOrText) => return Err("`text` is not a string".into()),
        (None, _, PromptField::Prompt) => return Err("no field `prompt`".into()),
        (None, None, PromptField::PromptOrText) => return Err("no field `prompt` or `text`".into()),
    };
    if prompt.is_empty() {
        return Err("the prompt is empty".into());
    }
    if line.output_tokens == Some(0) {
        return Err("`output_tokens` is 0: every request generates at least 1".into());
    }
    Ok((prompt, line.output_tokens))
}

/// The parser's message with the column, without its line number, which is always 1 here.
fn describe(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    let message: String = message.chars().take(MAX_REASON_CHARS).collect();
    format!("column {}: {message}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(line: &[u8]) -> String {
        parse(line, PromptField::Prompt).unwrap_err()
    }

    #[test]
    fn good_lines_keep_their_prompt_and_length() {
        let parsed = parse(b" {\"prompt\": \"a\\n\\u00e9\", \"id\": [1], \"output_tokens\": 5}\r", PromptField::Prompt);
        assert_eq!(parsed.unwrap(), ("a\né".to_owned(), Some(5)));
        assert_eq!(parse(b"{\"text\":\"t\"}", PromptField::PromptOrText).unwrap(), ("t".to_owned(), None));
        assert_eq!(parse(b"{\"prompt\":\"p\",\"text\":3}", PromptField::Prompt).unwrap(), ("p".to_owned(), None));
    }

    #[test]
    fn every_kind_of_bad_line_has_its_reason() {
        let cases: [(&[u8], &str); 16] = [
            (b"", "blank"),
            (b" \t\r", "blank"),
            (b"\xff{}", "not UTF-8 from byte 1 on"),
            (b"{\"id\":\"\xe9\",\"prompt\":\"a\"}", "not UTF-8 from byte 8 on"),
            (b"\xef\xbb\xbf{\"prompt\":\"a\"}", "byte order mark"),
            (b"[\"a\"]", "not a JSON object"),
            (b"\"a\"", "not a JSON object"),
            (b"{\"prompt\":\"a\"", "EOF"),
            (b"{\"prompt\":\"a\"} {}", "trailing"),
            (b"{\"prompt\":\"\\ud800\"}", "column"),
            (b"{\"text\":\"a\"}", "no field `prompt`"),
            (b"{\"prompt\":7}", "column 11: invalid type: integer `7`, expected a string"),
            (b"{\"prompt\":null}", "expected a string"),
            (b"{\"prompt\":\"a\",\"output_tokens\":\"9\"}", "expected u32"),
            (b"{\"prompt\":\"a\",\"output_tokens\":0}", "at least 1"),
            (b"{\"prompt\":\"\"}", "empty"),
        ];
        for (line, expected) in cases {
            let found = reason(line);
            assert!(found.contains(expected), "{}: {found}", String::from_utf8_lossy(line));
        }
        for number in ["-1", "1.5", "4294967296", "null", "true"] {
            let line = format!("{{\"prompt\":\"a\",\"output_tokens\":{number}}}");
            assert!(reason(line.as_bytes()).contains("u32"), "{number}");
        }
        assert!(reason(b"{\"prompt\":\"a\",\"prompt\":\"b\"}").contains("duplicate field"));
        assert!(parse(b"{\"_provenance\":\"x\"}", PromptField::PromptOrText).is_err());
        assert!(parse(b"{\"text\":[\"x\"]}", PromptField::PromptOrText).is_err());
    }
}

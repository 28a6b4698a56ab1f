use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::json_lines::{self, PromptField};
use super::manifest::DatasetManifest;
use super::{WorkloadError, parquet_file};

/// The longest text that a copy of a built-in data set may hold, in bytes: far above any real one.
pub(super) const MAX_DATASET_BYTES: u64 = 1 << 30;

#[derive(Serialize)]
struct CanonicalLine<'a> {
    prompt: &'a str,
}

/// A built-in data set whose content has been checked against its manifest.
pub(super) struct CheckedDataset {
    /// The prompts in the order of the data set.
    pub(super) prompts: Vec<String>,
    /// The canonical form.
    pub(super) bytes: Vec<u8>,
}

/// Reads a copy of a built-in data set, JSON Lines or Parquet, and accepts it only if it holds exactly the pinned
/// prompts. White space around prompts does not count: copies in circulation differ in it. `origin` names the copy in
/// messages.
pub(super) fn read(manifest: &DatasetManifest, path: &Path, origin: &str) -> Result<CheckedDataset, WorkloadError> {
    let prompts = if path.extension().is_some_and(|extension| extension == "parquet") {
        parquet_file::read_column(path, &manifest.column, MAX_DATASET_BYTES)?
    } else {
        json_lines::read(path, PromptField::PromptOrText)?.prompts.into_iter().map(|prompt| prompt.text).collect()
    };
    let prompts: Vec<String> = prompts.into_iter().map(|prompt: String| prompt.trim().to_owned()).collect();
    let bytes = encode(&prompts)?;
    let found = hex::encode(Sha256::digest(&bytes));
    if found == manifest.sha256 {
        return Ok(CheckedDataset { prompts, bytes });
    }
    Err(WorkloadError::WrongContent {
        name: manifest.name.clone(),
        origin: origin.to_owned(),
        found,
        found_prompts: prompts.len() as u64,
        expected: manifest.sha256.clone(),
        expected_prompts: manifest.prompts,
    })
}

/// The canonical form: `{"prompt":"…"}` and a line feed per prompt, UTF-8, JSON strings with the shortest escapes (only
/// `"`, `\` and control characters are escaped).
fn encode(prompts: &[String]) -> Result<Vec<u8>, WorkloadError> {
    let mut bytes = Vec::new();
    for prompt in prompts {
        serde_json::to_writer(&mut bytes, &CanonicalLine { prompt }).map_err(std::io::Error::from)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_is_fixed() {
        let prompts = ["a \"b\" \\ é\n".to_owned(), "\u{1}\u{92}/\u{7f}集\t".to_owned()];
        let expected = "{\"prompt\":\"a \\\"b\\\" \\\\ é\\n\"}\n{\"prompt\":\"\\u0001\u{92}/\u{7f}集\\t\"}\n";
        assert_eq!(String::from_utf8(encode(&prompts).unwrap()).unwrap(), expected);
    }
}

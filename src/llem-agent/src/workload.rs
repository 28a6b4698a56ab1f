//! The workload file: proof that it is the one that was sent, and what it asks of each request.

use std::io::{BufReader, Read};

use llem_protocol::{FailureClass, WorkloadLine, WorkloadRef};
use sha2::{Digest, Sha256};

use crate::fault::Fault;
use crate::lines::{self, Line};

/// What one request must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Tokens of its prompt.
    pub(crate) prompt_tokens: u32,
    /// Tokens to generate; the limit when end-of-sequence is not ignored.
    pub(crate) output_tokens: u32,
}

/// Checks the file's hash and count, and returns what is asked of each request, by index.
pub(crate) fn read_workload(workload: &WorkloadRef) -> Result<Vec<Asked>, Fault> {
    let path = workload.path.display();
    let corrupt = |text: String| Fault::new(FailureClass::WorkloadCorrupt, text);
    let file = fs_err::File::open(&workload.path).map_err(|error| corrupt(error.to_string()))?;
    let mut reader = BufReader::new(Hashing { inner: file, hash: Sha256::new() });
    let mut asked = Vec::new();
    let mut line = Vec::new();
    loop {
        let number = asked.len() + 1;
        match lines::read_line(&mut reader, &mut line).map_err(|error| corrupt(error.to_string()))? {
            Line::End => break,
            Line::TooLong => return Err(corrupt(format!("{path}, line {number}: the line is too long"))),
            Line::Complete => {
                let request = parse(&line, asked.len() as u64);
                asked.push(request.map_err(|text| corrupt(format!("{path}, line {number}: {text}")))?);
            }
        }
    }
    let found = hex::encode(reader.into_inner().hash.finalize());
    if !found.eq_ignore_ascii_case(&workload.sha256) {
        return Err(corrupt(format!("{path} has SHA-256 {found}, the job says {}", workload.sha256)));
    }
    if asked.len() as u64 != workload.requests {
        return Err(corrupt(format!("{path} has {} requests, the job says {}", asked.len(), workload.requests)));
    }
    Ok(asked)
}

fn parse(line: &[u8], index: u64) -> Result<Asked, String> {
    let request: WorkloadLine = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if request.index != index {
        return Err(format!("the index is {}, expected {index}", request.index));
    }
    Ok(Asked { prompt_tokens: request.prompt_ids.len() as u32, output_tokens: request.output_tokens })
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\"index\":0,\"prompt_ids\":[1,2,3],\"output_tokens\":4}\n\
                        {\"index\":1,\"prompt_ids\":[5],\"output_tokens\":1}\n";

    fn read(text: &str, sha256: &str, requests: u64) -> Result<Vec<Asked>, Fault> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), text).unwrap();
        let sha256 = sha256.to_owned();
        read_workload(&WorkloadRef { path: file.path().to_owned(), sha256, requests, ignore_eos: true })
    }

    #[test]
    fn the_sent_workload_is_read() {
        let asked = read(TEXT, &hex::encode_upper(Sha256::digest(TEXT)), 2).unwrap();
        assert_eq!(asked, [Asked { prompt_tokens: 3, output_tokens: 4 }, Asked { prompt_tokens: 1, output_tokens: 1 }]);
    }

    #[test]
    fn another_hash_count_or_order_is_corrupt() {
        let hash = hex::encode(Sha256::digest(TEXT));
        let swapped = TEXT.replace("\"index\":1", "\"index\":7");
        for result in [read(TEXT, "00", 2), read(TEXT, &hash, 3), read(&swapped, &hash, 2), read("x", &hash, 1)] {
            assert_eq!(result.unwrap_err().class, FailureClass::WorkloadCorrupt);
        }
    }
}

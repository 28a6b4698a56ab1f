//! Whether runs did the work that they were asked: every run is held against its workload, request by request.

use std::collections::HashSet;
use std::fmt;

use llem_protocol::RequestRecord;

/// What a workload asks of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens to generate; the most where the end-of-sequence token is obeyed.
    pub output_tokens: u32,
}

/// A request that was not carried out as asked. The agent checks the same; it runs beside the engine, this here does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkMismatch(String);

impl fmt::Display for WorkMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Holds the records of a window against the workload: every request once in every pass, with its lengths.
pub fn check_work(asked: &[Asked], passes: usize, requests: &[RequestRecord], exact: bool) -> Result<(), WorkMismatch> {
    let mut seen = HashSet::with_capacity(requests.len());
    for request in requests {
        let name = format!("request {} in pass {}", request.index, request.pass);
        let mismatch = |text: String| Err(WorkMismatch(format!("{name}: {text}")));
        let Some(asked) = usize::try_from(request.index).ok().and_then(|index| asked.get(index)) else {
            return mismatch(format!("the workload has {} requests", asked.len()));
        };
        if request.prompt_tokens != asked.prompt_tokens {
            return mismatch(format!("{} prompt tokens, asked {}", request.prompt_tokens, asked.prompt_tokens));
        }
        let (found, limit) = (request.output_ids.len(), asked.output_tokens as usize);
        if found > limit || (exact && found < limit) {
            let relation = if exact { "exactly" } else { "at most" };
            return mismatch(format!("{found} generated tokens, asked {relation} {limit}"));
        }
        if !seen.insert((request.pass, request.index)) {
            return mismatch("recorded twice".to_owned());
        }
    }
    let expected = asked.len() * passes;
    if seen.len() == expected {
        return Ok(());
    }
    Err(WorkMismatch(format!("{} records for {passes} passes of {} requests", seen.len(), asked.len())))
}

#[cfg(test)]
mod tests;

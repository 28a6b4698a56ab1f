use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use llem_model::Geometry;
use llem_protocol::{MAX_LINE_BYTES, WorkloadLine};

use crate::error::DriverError;

/// Reads the workload and checks that the model can do every request.
pub(crate) fn read(path: &Path, geometry: &Geometry) -> Result<Vec<WorkloadLine>, DriverError> {
    let corrupt =
        |number: usize, what: String| DriverError::Workload(format!("{}, line {number}: {what}", path.display()));
    let file = fs_err::File::open(path).map_err(|error| DriverError::Workload(error.to_string()))?;
    let mut reader = BufReader::new(file);
    let mut requests = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
        let number = requests.len() + 1;
        if line.is_empty() {
            break;
        }
        if line.len() > MAX_LINE_BYTES {
            return Err(corrupt(number, format!("it is longer than {MAX_LINE_BYTES} bytes")));
        }
        let request: WorkloadLine =
            serde_json::from_slice(&line).map_err(|error| corrupt(number, error.to_string()))?;
        if request.index != requests.len() as u64 {
            return Err(corrupt(number, format!("its index is {}, not {}", request.index, requests.len())));
        }
        check(&request, geometry)?;
        requests.push(request);
    }
    if requests.is_empty() { Err(corrupt(1, "there is no request".to_owned())) } else { Ok(requests) }
}

fn check(request: &WorkloadLine, geometry: &Geometry) -> Result<(), DriverError> {
    let WorkloadLine { index, prompt_ids, output_tokens } = request;
    let refuse = |what: String| Err(DriverError::Request(format!("request {index} {what}")));
    if prompt_ids.is_empty() || *output_tokens == 0 {
        return refuse("has no prompt or no token to generate".to_owned());
    }
    if let Some(id) = prompt_ids.iter().find(|id| **id as usize >= geometry.vocab) {
        return refuse(format!("has token {id} in its prompt, the model's vocabulary ends below {}", geometry.vocab));
    }
    let length = prompt_ids.len() + *output_tokens as usize;
    if length > geometry.max_positions {
        return refuse(format!(
            "needs {} prompt and {output_tokens} output tokens, the model has {} positions",
            prompt_ids.len(),
            geometry.max_positions
        ));
    }
    Ok(())
}

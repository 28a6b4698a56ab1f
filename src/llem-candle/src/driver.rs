use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::DType;
use llem_model::{Checkpoint, Geometry};
use llem_protocol::{EngineSpec, Message, ModelLocation, PROTOCOL_VERSION, Request, RequestRecord, WorkloadLine};

use crate::channel::Channel;
use crate::error::DriverError;
use crate::generate::Generator;
use crate::model::Model;
use crate::settings::{Settings, dtype_name};
use crate::system::{monotonic_ns, peak_memory_bytes, processor};
use crate::weights::{Weights, stored_dtype};
use crate::workload;

/// Version of candle-core that the driver is built with; a test holds it against Cargo.lock.
const CANDLE_VERSION: &str = "0.11.1";

/// Time between two reports of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Speaks the driver protocol until the agent says shutdown or closes its end.
pub fn run<R: BufRead>(channel: &mut Channel<R>) -> Result<(), DriverError> {
    channel.send(&hello())?;
    let mut generator = None;
    let mut records = Vec::new();
    while let Some(request) = channel.receive()? {
        match request {
            Request::Load { engine, workload, ignore_eos } => {
                if generator.is_some() {
                    return Err(DriverError::Protocol("a model is loaded already".to_owned()));
                }
                generator = Some(load(channel, &engine, &workload, ignore_eos)?);
            }
            Request::Pass { pass, record, prefill_only } => {
                let Some(generator) = &generator else {
                    return Err(DriverError::Protocol("a pass was asked for before a model was loaded".to_owned()));
                };
                let made = run_pass(channel, generator, pass, prefill_only)?;
                if record {
                    records.extend(made);
                }
            }
            Request::Records => send_records(channel, std::mem::take(&mut records))?,
            Request::Shutdown => break,
        }
    }
    Ok(())
}

fn hello() -> Message {
    Message::Hello {
        protocol_version: PROTOCOL_VERSION,
        engine: "candle".to_owned(),
        engine_version: CANDLE_VERSION.to_owned(),
        libraries: BTreeMap::from([("llem-candle".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        packages: BTreeMap::new(),
    }
}

fn load<R: BufRead>(
    channel: &mut Channel<R>,
    engine: &EngineSpec,
    workload: &Path,
    ignore_eos: bool,
) -> Result<Generator, DriverError> {
    let settings = Settings::new(engine)?;
    let dir = model_dir(&engine.model)?;
    let geometry = Geometry::read(dir)?;
    if let Some(method) = &geometry.quantization {
        return Err(DriverError::Unsupported(format!(
            "the candle backend does not load weights quantised by `{method}`"
        )));
    }
    let requests = workload::read(workload, &geometry)?;
    let checkpoint = Checkpoint::open(dir)?;
    let dtype = settings.dtype.map_or_else(|| stored_dtype(checkpoint.dtype().unwrap_or("none")), Ok)?;
    settings.start_threads()?;
    let weights = read_weights(channel, &geometry, &checkpoint, dtype)?;
    let length = |line: &WorkloadLine| line.prompt_ids.len() + line.output_tokens as usize;
    let positions = requests.iter().map(length).max().unwrap_or(1);
    let loaded = Message::Loaded {
        parameters: Some(geometry.parameters()),
        dtype: dtype_name(dtype).to_owned(),
        devices: vec![processor()],
        settings: settings.report(dtype),
        requests: requests.len() as u64,
        compile: None,
    };
    let eos_ids = if ignore_eos { Vec::new() } else { geometry.eos_ids.clone() };
    let model = Model::new(geometry, weights, dtype, positions)?;
    channel.send(&loaded)?;
    let Settings { batch_size, sampling, seed, .. } = settings;
    Ok(Generator { model, requests, batch_size, sampling, seed, eos_ids })
}

fn model_dir(ModelLocation::Directory(dir): &ModelLocation) -> Result<&Path, DriverError> {
    if dir.is_dir() {
        return Ok(dir);
    }
    Err(DriverError::ModelMissing(format!("the model directory {} does not exist", dir.display())))
}

fn read_weights<R: BufRead>(
    channel: &mut Channel<R>,
    geometry: &Geometry,
    checkpoint: &Checkpoint,
    dtype: DType,
) -> Result<Weights, DriverError> {
    let mut last = Instant::now();
    Weights::read(geometry, checkpoint, dtype, |done_bytes, total_bytes| {
        if last.elapsed() >= PROGRESS_INTERVAL {
            last = Instant::now();
            let (done, total) = (done_bytes as f64, Some(total_bytes as f64));
            channel.send(&Message::Progress { done, total, unit: "bytes".to_owned() })?;
        }
        Ok(())
    })
}

fn run_pass<R: BufRead>(
    channel: &mut Channel<R>,
    generator: &Generator,
    pass: u32,
    prefill_only: bool,
) -> Result<Vec<RequestRecord>, DriverError> {
    let start_ns = monotonic_ns();
    let records = generator.pass(pass, prefill_only)?;
    let end_ns = monotonic_ns();
    let prompt_tokens = records.iter().map(|record| u64::from(record.prompt_tokens)).sum();
    let output_tokens = records.iter().map(|record| record.output_ids.len() as u64).sum();
    channel.send(&Message::PassDone { pass, start_ns, end_ns, prompt_tokens, output_tokens })?;
    Ok(records)
}

fn send_records<R: BufRead>(channel: &mut Channel<R>, records: Vec<RequestRecord>) -> Result<(), DriverError> {
    let count = records.len() as u64;
    for record in records {
        channel.queue(&Message::Record { record })?;
    }
    channel.send(&Message::RecordsDone { records: count, peak_memory_bytes: peak_memory_bytes() })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::CANDLE_VERSION;

    #[test]
    fn the_reported_version_is_the_locked_one() {
        let lock = fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
        assert!(lock.contains(&format!("name = \"candle-core\"\nversion = \"{CANDLE_VERSION}\"\n")));
    }
}

//! What the driver generates: counts, stamps and tokens, over its own stdin and stdout.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::path::Path;

use common::{Driver, batch, engine, generate, model, outputs, small, workload};
use llem_model::{Architecture, Checkpoint};
use llem_protocol::{DeviceKind, Message, Request, RequestRecord};
use serde_json::{Map, json};

/// Prompts of every length class, outputs from one token on.
const RAGGED: [(usize, u32); 9] = [(1, 12), (17, 1), (64, 20), (3, 33), (40, 7), (2, 2), (90, 30), (11, 25), (5, 19)];

#[test]
fn counts_are_exact_and_tokens_do_not_depend_on_the_batch() {
    for (architecture, tied) in [(Architecture::Llama, false), (Architecture::Qwen2, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = model(&dir, &small(architecture, tied));
        let requests = workload(&RAGGED, 512);
        let alone = generate(dir.path(), batch(&path, 1), &requests, true);
        for size in [1, 4, 7] {
            let mut driver = Driver::loaded(dir.path(), batch(&path, size), &requests, true);
            let done = driver.pass(3, true);
            assert_eq!(done.prompt_tokens, RAGGED.iter().map(|(prompt, _)| *prompt as u64).sum::<u64>());
            assert_eq!(done.output_tokens, RAGGED.iter().map(|(_, output)| u64::from(*output)).sum::<u64>());
            let records = driver.records();
            assert_eq!(outputs(&records), outputs(&alone), "{architecture:?} with batch size {size}");
            for (position, (record, (prompt, output))) in records.iter().zip(RAGGED).enumerate() {
                assert_eq!((record.pass, record.index), (3, position as u64));
                assert_eq!(record.batch, Some(position as u32 / size));
                assert_eq!(record.prompt_tokens as usize, prompt);
                assert_eq!(record.output_ids.len(), output as usize);
                check_stamps(record, done.start_ns, done.end_ns);
            }
        }
    }
}

fn check_stamps(record: &RequestRecord, start_ns: u64, end_ns: u64) {
    assert_eq!(record.token_ns.len(), record.output_ids.len());
    assert!(record.token_ns.is_sorted());
    assert!(start_ns <= record.submit_ns && record.submit_ns < record.token_ns[0]);
    assert!(*record.token_ns.last().unwrap() <= end_ns);
}

#[test]
fn prefill_stops_every_request_after_its_first_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir, &small(Architecture::Llama, false));
    let mut driver = Driver::loaded(dir.path(), batch(&path, 4), &workload(&RAGGED, 512), true);
    let prefill = driver.prefill(0, true);
    let whole = driver.pass(1, true);
    assert_eq!(prefill.prompt_tokens, whole.prompt_tokens);
    assert_eq!(prefill.output_tokens, RAGGED.len() as u64);
    let records = driver.records();
    let (first, rest) = records.split_at(RAGGED.len());
    for (record, whole) in first.iter().zip(rest) {
        assert_eq!((record.pass, whole.pass), (0, 1));
        assert_eq!(record.output_ids, whole.output_ids[..1]);
        check_stamps(record, prefill.start_ns, prefill.end_ns);
    }
}

#[test]
fn a_later_batch_is_submitted_after_the_one_before_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir, &small(Architecture::Llama, false));
    let records = generate(dir.path(), batch(&path, 4), &workload(&RAGGED, 512), true);
    for pair in records.chunks(4).collect::<Vec<_>>().windows(2) {
        let done_ns = pair[0].iter().flat_map(|record| &record.token_ns).max().unwrap();
        assert!(pair[1].iter().all(|record| record.submit_ns >= *done_ns && record.submit_ns == pair[1][0].submit_ns));
    }
}

#[test]
fn the_model_does_not_repeat_one_token() {
    let dir = tempfile::tempdir().unwrap();
    for tied in [false, true] {
        let path = model(&dir, &small(Architecture::Llama, tied));
        let records = generate(dir.path(), batch(&path, 1), &workload(&[(20, 64)], 512), true);
        let distinct: std::collections::HashSet<_> = records[0].output_ids.iter().collect();
        assert!(distinct.len() > 32, "{:?}", records[0].output_ids);
    }
}

#[test]
fn every_data_type_generates_the_asked_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir, &small(Architecture::Qwen2, false));
    for (asked, loaded) in [("auto", "bfloat16"), ("bfloat16", "bfloat16"), ("float16", "float16")] {
        let mut spec = batch(&path, 4);
        spec.dtype = asked.to_owned();
        let mut driver = Driver::start();
        driver.load(dir.path(), spec, &workload(&RAGGED, 512), true);
        let answer = driver.receive();
        assert!(matches!(&answer, Message::Loaded { dtype, .. } if dtype == loaded), "{answer:?}");
        assert_eq!(
            driver.pass(0, true).output_tokens,
            RAGGED.iter().map(|(_, output)| u64::from(*output)).sum::<u64>()
        );
        assert!(driver.close().success());
    }
}

#[test]
fn the_end_of_sequence_token_ends_a_request_only_when_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir, &small(Architecture::Llama, false));
    let requests = workload(&[(9, 24), (30, 24), (4, 24)], 512);
    let full = generate(dir.path(), batch(&path, 3), &requests, true);
    let eos = full[1].output_ids[10];
    fs_err::write(path.join("generation_config.json"), json!({"eos_token_id": [eos]}).to_string()).unwrap();

    assert_eq!(outputs(&generate(dir.path(), batch(&path, 3), &requests, true)), outputs(&full));
    let ended = generate(dir.path(), batch(&path, 3), &requests, false);
    for (full, ended) in full.iter().zip(&ended) {
        let length = full.output_ids.iter().position(|id| *id == eos).map_or(24, |position| position + 1);
        assert_eq!(ended.output_ids, full.output_ids[..length]);
        assert_eq!(ended.token_ns.len(), length);
    }
    assert!(ended[1].output_ids.len() <= 11);
}

#[test]
fn sampling_follows_the_seed_and_not_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir, &small(Architecture::Llama, false));
    let requests = workload(&RAGGED, 512);
    let sampled = |size: u32, seed: &str| {
        let mut spec = batch(&path, size);
        spec.sampling = json!({"temperature": 0.8, "top_k": 40, "top_p": 0.95}).as_object().unwrap().clone();
        spec.random_seed = seed.to_owned();
        generate(dir.path(), spec, &requests, true)
    };
    let first = sampled(1, "7");
    assert_eq!(outputs(&sampled(4, "7")), outputs(&first));
    assert_ne!(outputs(&sampled(1, "8")), outputs(&first));
    assert_ne!(outputs(&generate(dir.path(), batch(&path, 1), &requests, true)), outputs(&first));
}

#[test]
fn only_asked_passes_are_recorded_and_records_are_sent_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir, &small(Architecture::Llama, false));
    let mut driver = Driver::loaded(dir.path(), batch(&path, 2), &workload(&[(3, 2), (4, 2)], 512), true);
    driver.pass(0, false);
    driver.pass(1, true);
    driver.pass(2, true);
    let passes: Vec<u32> = driver.records().iter().map(|record| record.pass).collect();
    assert_eq!(passes, [1, 1, 2, 2]);
    assert!(driver.records().is_empty());
    driver.send(&Request::Shutdown);
    assert!(driver.close().success());
}

#[test]
fn loaded_reports_the_device_and_the_settings_in_effect() {
    let dir = tempfile::tempdir().unwrap();
    let spec = small(Architecture::Llama, false);
    let path = model(&dir, &spec);
    let mut driver = Driver::start();
    driver.load(dir.path(), engine(&path, json!({"threads": 2})), &workload(&[(3, 2)], 512), true);
    let Message::Loaded { parameters, dtype, devices, settings, requests, .. } = driver.receive() else {
        panic!("not loaded")
    };
    assert_eq!(parameters, Some(spec.geometry().parameters()));
    assert_eq!((dtype.as_str(), requests), ("float32", 1));
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].kind, DeviceKind::Cpu);
    assert!(devices[0].name.as_ref().is_some_and(|name| !name.is_empty()));
    assert_eq!((&settings["batch_size"], &settings["threads"]), (&json!(1), &json!(2)));
    driver.pass(0, false);
    assert_eq!(driver.threads(), 2);
    assert!(driver.close().success());
}

#[test]
fn a_sharded_checkpoint_generates_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir, &small(Architecture::Llama, false));
    let requests = workload(&[(9, 24), (30, 24)], 512);
    let whole = generate(dir.path(), batch(&path, 2), &requests, true);
    shard(&path);
    assert_eq!(outputs(&generate(dir.path(), batch(&path, 2), &requests, true)), outputs(&whole));
}

/// Splits `model.safetensors` into two files and a list of them.
fn shard(model: &Path) {
    let stored = Checkpoint::open(model).unwrap().tensors;
    let single = model.join("model.safetensors");
    let content = fs_err::read(&single).unwrap();
    let mut weight_map = Map::new();
    for part in 0..2 {
        let file = format!("model-{part}.safetensors");
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, tensor) in stored.iter().skip(part).step_by(2) {
            let begin = data.len();
            data.extend(&content[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize]);
            let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, data.len()]});
            header.insert(name.clone(), entry);
            weight_map.insert(name.clone(), json!(file));
        }
        let header = serde_json::to_vec(&header).unwrap();
        fs_err::write(model.join(file), [&header.len().to_le_bytes(), &header[..], &data].concat()).unwrap();
    }
    let index = json!({"weight_map": weight_map}).to_string();
    fs_err::write(model.join("model.safetensors.index.json"), index).unwrap();
    fs_err::remove_file(single).unwrap();
}

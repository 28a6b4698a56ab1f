//! Counts, stamps and tokens.

use std::time::{Duration, Instant};

use llem_protocol::{DeviceKind, Message, PROTOCOL_VERSION, Request, RequestRecord};
use serde_json::json;

use crate::harness::{Kitchen, Pass, workload};

/// Prompts of every length class, outputs from one token on.
pub(crate) const RAGGED: [(usize, u32); 7] = [(1, 12), (17, 1), (64, 20), (3, 33), (40, 7), (90, 30), (5, 19)];

pub(crate) fn outputs(records: &[RequestRecord]) -> Vec<&[u32]> {
    records.iter().map(|record| record.output_ids.as_slice()).collect()
}

/// Stamps of a batch are those of its steps: the same for all its requests as long as they last.
fn check_records(records: &[RequestRecord], pass: Pass, batch_size: usize) {
    for (batch, records) in (0..).zip(records.chunks(batch_size)) {
        let longest = records.iter().max_by_key(|record| record.token_ns.len()).unwrap();
        assert!(longest.token_ns.is_sorted() && longest.submit_ns < longest.token_ns[0]);
        assert!(pass.start_ns <= longest.submit_ns && *longest.token_ns.last().unwrap() <= pass.end_ns);
        for record in records {
            assert_eq!((record.batch, record.submit_ns), (Some(batch), longest.submit_ns));
            assert_eq!(record.token_ns, longest.token_ns[..record.output_ids.len()]);
        }
    }
    for pair in records.chunks(batch_size).collect::<Vec<_>>().windows(2) {
        let done_ns = pair[0].iter().flat_map(|record| &record.token_ns).max().unwrap();
        assert!(pair[1][0].submit_ns >= *done_ns, "the next batch waits for the one before");
    }
}

#[test]
fn lengths_are_exact_and_tokens_equal_those_of_the_embedded_engine() {
    let Some(kitchen) = Kitchen::new() else { return };
    let requests = workload(&RAGGED);
    let expected = kitchen.by_candle(&requests, true);
    let mut driver = kitchen.pytorch();
    let loaded = driver.loads(&kitchen.load(kitchen.batches(3), &requests, true));
    check_loaded(&loaded);
    check_hello(driver.hello());

    let prompts: u64 = RAGGED.iter().map(|(prompt, _)| *prompt as u64).sum();
    let asked: u64 = RAGGED.iter().map(|(_, output)| u64::from(*output)).sum();
    let unrecorded = driver.pass(0, false, false);
    let whole = driver.pass(1, true, false);
    let prefill = driver.pass(2, true, true);
    assert!(unrecorded.end_ns <= whole.start_ns && whole.end_ns <= prefill.start_ns);
    for pass in [unrecorded, whole] {
        assert_eq!((pass.prompt_tokens, pass.output_tokens), (prompts, asked));
    }
    assert_eq!((prefill.prompt_tokens, prefill.output_tokens), (prompts, RAGGED.len() as u64));

    let (records, peak_bytes) = driver.records();
    assert!(peak_bytes.is_some_and(|bytes| (50_000_000..5_000_000_000).contains(&bytes)), "{peak_bytes:?}");
    let (full, first) = records.split_at(RAGGED.len());
    assert_eq!(outputs(full), outputs(&expected));
    check_records(full, whole, 3);
    check_records(first, prefill, 3);
    for (position, (record, (prompt, output))) in full.iter().zip(RAGGED).enumerate() {
        assert_eq!((record.pass, record.index, record.prompt_tokens as usize), (1, position as u64, prompt));
        assert_eq!(record.output_ids.len(), output as usize);
        assert_eq!((first[position].pass, &first[position].output_ids[..]), (2, &record.output_ids[..1]));
    }
    assert_eq!(driver.records().0, [], "records are sent once");

    driver.send(&Request::Shutdown);
    let asked_at = Instant::now();
    assert!(driver.close().success());
    assert!(asked_at.elapsed() < Duration::from_secs(10), "{:?}", asked_at.elapsed());
}

fn check_hello(hello: &Message) {
    let Message::Hello { protocol_version, engine_version, libraries, packages, .. } = hello else {
        panic!("{hello:?}")
    };
    assert_eq!(*protocol_version, PROTOCOL_VERSION);
    assert!(engine_version.starts_with("2."), "{engine_version}");
    assert!(libraries["python"].starts_with("3."), "{libraries:?}");
    assert_eq!(libraries["transformers"], packages["transformers"]);
    assert!(packages.len() > 10, "{packages:?}");
}

fn check_loaded(loaded: &Message) {
    let Message::Loaded { parameters, dtype, devices, settings, requests, .. } = loaded else { panic!("{loaded:?}") };
    assert_eq!((*requests, dtype.as_str()), (RAGGED.len() as u64, "float32"));
    assert!(parameters.is_some_and(|count| count > 100_000), "{parameters:?}");
    assert_eq!(devices.len(), 1);
    assert_eq!((devices[0].kind, &devices[0].uuid), (DeviceKind::Cpu, &None));
    let expected = [
        ("batch_size", json!(3)),
        ("device_map", json!("cpu")),
        ("num_threads", json!(1)),
        ("attn_implementation", json!("sdpa")),
        ("cache_implementation", json!("dynamic")),
        ("deterministic_algorithms", json!(false)),
        ("sampling", json!("greedy")),
    ];
    for (key, value) in expected {
        assert_eq!(settings[key], value, "{key}");
    }
}

#[test]
fn the_end_of_sequence_token_ends_a_request_only_when_it_counts() {
    let Some(kitchen) = Kitchen::new() else { return };
    let requests = workload(&[(9, 24), (30, 24), (4, 24), (12, 6)]);
    let whole = kitchen.by_candle(&requests, true);
    let eos = whole[1].output_ids[10];
    let text = json!({"eos_token_id": [eos], "repetition_penalty": 1.9, "do_sample": true}).to_string();
    fs_err::write(kitchen.model.join("generation_config.json"), text).unwrap();
    let mut driver = kitchen.pytorch();
    driver.loads(&kitchen.load(kitchen.batches(4), &requests, false));
    let done = driver.pass(0, true, false);
    let (records, _) = driver.records();
    for (record, whole) in records.iter().zip(&whole) {
        let end = whole.output_ids.iter().position(|id| *id == eos).map_or(whole.output_ids.len(), |place| place + 1);
        assert_eq!(record.output_ids, whole.output_ids[..end]);
    }
    assert!(records[1].output_ids.len() <= 11 && records.iter().any(|record| record.output_ids.len() == 24));
    assert_eq!(done.output_tokens, records.iter().map(|record| record.output_ids.len() as u64).sum::<u64>());
    assert!(driver.close().success());
}

#[test]
fn settings_are_in_effect() {
    let Some(kitchen) = Kitchen::new() else { return };
    let requests = workload(&RAGGED[..4]);
    let mut engine = kitchen.batches(2);
    engine.dtype = "bfloat16".to_owned();
    engine.sampling = json!({"temperature": 0.9, "top_p": 0.95}).as_object().unwrap().clone();
    let options = json!({
        "attn": {"implementation": "eager"}, "cache": {"implementation": "static"}, "deterministic_algorithms": true,
        "allow_tf32": true, "cudnn_benchmark": true, "cudnn_deterministic": true,
    });
    engine.options.extend(options.as_object().unwrap().clone());
    let mut driver = kitchen.pytorch();
    let loaded = driver.loads(&kitchen.load(engine, &requests, true));
    let Message::Loaded { dtype, settings, .. } = loaded else { panic!("{loaded:?}") };
    assert_eq!(dtype, "bfloat16");
    assert_eq!(
        (&settings["attn_implementation"], &settings["cache_implementation"]),
        (&json!("eager"), &json!("static"))
    );
    for switch in ["deterministic_algorithms", "allow_tf32", "cudnn_benchmark", "cudnn_deterministic"] {
        assert_eq!(settings[switch], json!(true), "{switch}");
    }
    driver.pass(0, true, false);
    driver.pass(1, true, false);
    let (records, _) = driver.records();
    let (first, second) = records.split_at(requests.len());
    assert_eq!(outputs(first), outputs(second), "every pass is the same work");
    assert_ne!(outputs(first), outputs(&kitchen.by_candle(&requests, true)), "sampled, not greedy");
    assert!(driver.close().success());
}

//! Counts, stamps and tokens of both paths.

use std::time::{Duration, Instant};

use llem_protocol::{Message, PROTOCOL_VERSION, Request, RequestRecord};
use serde_json::{Value, json};

use crate::harness::{Driver, Kitchen, Pass, error, workload};

/// Prompts of every length class, outputs from one token on.
const RAGGED: [(usize, u32); 7] = [(1, 12), (17, 1), (64, 20), (3, 33), (40, 7), (90, 30), (5, 19)];

fn outputs(records: &[RequestRecord]) -> Vec<&[u32]> {
    records.iter().map(|record| record.output_ids.as_slice()).collect()
}

/// What the agent checks, and that requests are handed over in order and none waits for another to end.
fn check_records(records: &[RequestRecord], pass: Pass, number: u32) {
    let mut last_submit_ns = pass.start_ns;
    for (index, record) in (0..).zip(records) {
        assert_eq!((record.pass, record.index, record.batch), (number, index, None));
        assert_eq!(record.prompt_tokens as usize, RAGGED[index as usize].0);
        assert_eq!(record.token_ns.len(), record.output_ids.len());
        assert!(record.token_ns.is_sorted() && record.submit_ns <= record.token_ns[0]);
        assert!(last_submit_ns <= record.submit_ns && *record.token_ns.last().unwrap() <= pass.end_ns);
        last_submit_ns = record.submit_ns;
    }
    let longest_end_ns = records[..6].iter().map(|record| record.token_ns.last().unwrap()).max().unwrap();
    assert!(last_submit_ns < *longest_end_ns || number == 2, "no request waits for another to end");
}

fn check_hello(driver: &Driver) {
    let Message::Hello { protocol_version, engine_version, libraries, .. } = driver.hello() else { panic!() };
    assert_eq!((*protocol_version, engine_version.as_str()), (PROTOCOL_VERSION, "1.2.1"));
    assert_eq!((libraries["tensorrt"].as_str(), libraries["cuda"].as_str()), ("10.14.1.48", "13.1"));
    assert!(libraries["python"].starts_with("3.") && libraries["torch"].starts_with("2."), "{libraries:?}");
}

fn lengths_are_exact(engine: &str, expected_dtype: &str) {
    let Some(mut kitchen) = Kitchen::new() else { return };
    kitchen.script = json!({"token_seconds": 0.002});
    let mut driver = kitchen.driver();
    check_hello(&driver);
    let loaded =
        driver.loads_as_sent(&kitchen.load(kitchen.engine(json!({"engine": engine})), &workload(&RAGGED), true));
    assert_eq!((&loaded["dtype"], &loaded["requests"]), (&json!(expected_dtype), &json!(RAGGED.len())));
    let device = json!({"kind": "gpu", "name": "NVIDIA Stand-in", "uuid": "GPU-5ca1ab1e-0000-4000-8000-000000000000"});
    assert_eq!(loaded["devices"], json!([device]));
    assert_eq!(loaded["settings"]["sampling"], "greedy");

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
    assert_eq!(peak_bytes, None, "no device that could be asked");
    let (full, first) = records.split_at(RAGGED.len());
    check_records(full, whole, 1);
    check_records(first, prefill, 2);
    for (position, (record, (_, output))) in full.iter().zip(RAGGED).enumerate() {
        assert_eq!(record.output_ids.len(), output as usize);
        assert_eq!(first[position].output_ids, record.output_ids[..1]);
    }
    // A token takes a step of 2 ms; the stamps are those of arrival, not of the end.
    let longest = &full[3].token_ns;
    let gaps: Vec<_> = longest.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().filter(|gap| **gap > 500_000).count() > gaps.len() / 2, "{gaps:?}");
    assert_eq!(driver.records().0, [], "records are sent once");
    assert!(kitchen.log().contains("received after the engine's own stamp"), "{}", kitchen.log());

    driver.send(&Request::Shutdown);
    let asked_at = Instant::now();
    assert!(driver.close().success(), "the engine's own shutdown is not called");
    assert!(asked_at.elapsed() < Duration::from_secs(10), "{:?}", asked_at.elapsed());
}

#[test]
fn lengths_are_exact_on_the_pytorch_path() {
    lengths_are_exact("pytorch", "bfloat16");
}

#[test]
fn lengths_are_exact_with_a_compiled_engine() {
    lengths_are_exact("tensorrt", "float16");
}

/// What the engine is asked for a request.
fn parameters(kitchen: &Kitchen, number: usize) -> Value {
    kitchen.told("generate")[number]["parameters"].clone()
}

#[test]
fn greedy_is_that_nothing_is_said_of_sampling() {
    let Some(kitchen) = Kitchen::new() else { return };
    let mut driver = kitchen.driver();
    driver.loads(&kitchen.load(kitchen.engine(json!({})), &workload(&[(4, 3)]), true));
    driver.pass(0, true, false);
    let asked = parameters(&kitchen, 0);
    let expected = [
        ("temperature", json!(null)),
        ("top_k", json!(null)),
        ("top_p", json!(null)),
        ("seed", json!(null)),
        ("max_tokens", json!(3)),
        ("min_tokens", json!(3)),
        ("ignore_eos", json!(true)),
        ("end_id", json!(2)),
        ("pad_id", json!(2)),
        ("detokenize", json!(false)),
    ];
    for (key, value) in expected {
        assert_eq!(asked[key], value, "{key}");
    }
    assert_eq!(kitchen.told("generate")[0]["streaming"], json!(true));
}

#[test]
fn sampling_is_the_experiments_alone_and_the_same_in_every_pass() {
    let Some(kitchen) = Kitchen::new() else { return };
    let requests = workload(&[(4, 12), (9, 12)]);
    let mut engine = kitchen.engine(json!({}));
    engine.sampling = json!({"temperature": 0.9}).as_object().unwrap().clone();
    let mut driver = kitchen.driver();
    driver.loads(&kitchen.load(engine, &requests, true));
    driver.pass(0, true, false);
    driver.pass(1, true, false);
    let records = driver.records().0;
    let (first, second) = records.split_at(2);
    assert_eq!(outputs(first), outputs(second));
    let asked = parameters(&kitchen, 1);
    assert_eq!((&asked["temperature"], &asked["top_k"], &asked["top_p"]), (&json!(0.9), &json!(0), &json!(1.0)));
    assert_eq!((&parameters(&kitchen, 0)["seed"], &asked["seed"]), (&json!(42), &json!(43)));
    let mut greedy = kitchen.driver();
    greedy.loads(&kitchen.load(kitchen.engine(json!({})), &requests, true));
    greedy.pass(0, true, false);
    assert_ne!(outputs(&greedy.records().0), outputs(first));
}

#[test]
fn the_end_of_sequence_token_ends_a_request_only_when_it_counts() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    kitchen.script = json!({"eos_at": 5});
    for (ignore_eos, length) in [(true, 20), (false, 6)] {
        let mut driver = kitchen.driver();
        driver.loads(&kitchen.load(kitchen.engine(json!({})), &workload(&[(4, 20)]), ignore_eos));
        let done = driver.pass(0, true, false);
        let records = driver.records().0;
        assert_eq!((records[0].output_ids.len(), done.output_tokens), (length, length as u64));
        assert_eq!(records[0].output_ids[5], 2);
    }
    assert_eq!(parameters(&kitchen, 1)["stop_token_ids"], json!([3]));
}

#[test]
fn blocks_of_earlier_prompts_are_kept_only_when_asked() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    let requests = workload(&[(90, 2)]);
    let reuse = json!({"kv_cache": {"enable_block_reuse": true}});
    for (options, kept) in [(json!({}), false), (json!({"kv_cache": {"max_tokens": 4096}}), false), (reuse, true)] {
        let mut driver = kitchen.driver();
        let loaded = driver.loads_as_sent(&kitchen.load(kitchen.engine(options), &requests, true));
        assert_eq!(loaded["settings"]["kv_cache_config"]["enable_block_reuse"], json!(kept));
        driver.pass(0, true, false);
        driver.pass(1, true, false);
        assert_eq!(driver.records().0.len(), 2);
    }
    // An engine that keeps them all the same does not do the work that was asked.
    kitchen.script = json!({"keeps_blocks": true});
    let mut driver = kitchen.driver();
    driver.loads(&kitchen.load(kitchen.engine(json!({})), &requests, true));
    driver.pass(0, true, false);
    driver.send(&Request::Pass { pass: 1, record: true, prefill_only: false });
    let (class, text) = error(driver);
    assert_eq!(class, Some(llem_protocol::FailureClass::WrongWork), "{text}");
    assert!(text.contains("64 prompt tokens came from the cache"), "{text}");
}

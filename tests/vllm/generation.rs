//! Counts, stamps and tokens.

use std::path::{Path, PathBuf};

use llem_protocol::{DeviceKind, EngineSpec, Message, PROTOCOL_VERSION, Request, RequestRecord};
use serde_json::{Value, json};

use crate::harness::{Backend, Driver, Kitchen, Pass, workload};

/// vLLM's kernels for processors have heads of 32 values and more.
pub(crate) const VLLM: Backend = Backend { name: "vllm", image: "llem-tests/vllm-cpu:1", heads: (2, 1) };

/// Prompts of every length class, outputs from one token on.
const RAGGED: [(usize, u32); 7] = [(1, 12), (17, 1), (64, 20), (3, 33), (40, 7), (90, 30), (5, 19)];

/// vLLM must not pin its thread to a core that another test's vLLM has, too.
const UNBOUND: &str = "VLLM_CPU_OMP_THREADS_BIND=nobind";

/// vLLM on the processor, without a compiler, with a small cache, and with `options`.
pub(crate) fn on_processor(kitchen: &Kitchen, options: &Value) -> EngineSpec {
    let common = json!({"device": "cpu", "enforce_eager": true, "kv_cache_memory_bytes": 1 << 26});
    let mut engine = kitchen.engine("vllm", common);
    engine.options.extend(options.as_object().unwrap().clone());
    engine
}

fn outputs(records: &[RequestRecord]) -> Vec<&[u32]> {
    records.iter().map(|record| record.output_ids.as_slice()).collect()
}

fn settings(loaded: &Message) -> &serde_json::Map<String, Value> {
    match loaded {
        Message::Loaded { settings, .. } => settings,
        other => panic!("{other:?}"),
    }
}

/// Every token has the engine's own stamp; all requests are there before the first token of any.
fn check_stamps(records: &[RequestRecord], pass: Pass) {
    let first_ns = records.iter().map(|record| record.token_ns[0]).min().unwrap();
    for record in records {
        assert_eq!((record.batch, record.token_ns.len()), (None, record.output_ids.len()));
        assert!(record.token_ns.windows(2).all(|pair| pair[0] < pair[1]), "{record:?}");
        assert!(pass.start_ns <= record.submit_ns && record.submit_ns < first_ns, "{record:?}");
        assert!(*record.token_ns.last().unwrap() <= pass.end_ns, "{record:?}");
    }
}

/// How many of the first 16 tokens of every request are those of the other engine, of how many.
fn equal_tokens(records: &[RequestRecord], others: &[RequestRecord]) -> (usize, usize) {
    let pairs = records.iter().zip(others).flat_map(|(record, other)| {
        assert_eq!(record.index, other.index);
        record.output_ids.iter().zip(&other.output_ids).take(16)
    });
    pairs.fold((0, 0), |(equal, all), (id, other)| (equal + usize::from(id == other), all + 1))
}

#[test]
fn lengths_are_exact_and_tokens_equal_those_of_the_embedded_engine() {
    let Some(kitchen) = Kitchen::of(&VLLM) else { return };
    // An end-of-sequence token that would come: ignored, it must neither end a request nor be kept from being chosen.
    let requests = workload(&RAGGED);
    let expected = kitchen.by_candle(&requests, true);
    name_eos(&kitchen, expected[2].output_ids[4]);
    let mut driver = kitchen.driver(&[UNBOUND]);
    let loaded = driver.loads(&kitchen.load(on_processor(&kitchen, &json!({"max_num_seqs": 4})), &requests, true));
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
    check_stamps(full, whole);
    check_stamps(first, prefill);
    for (position, (record, (prompt, output))) in full.iter().zip(RAGGED).enumerate() {
        assert_eq!((record.pass, record.index, record.prompt_tokens as usize), (1, position as u64, prompt));
        assert_eq!(record.output_ids.len(), output as usize);
        assert_eq!((first[position].pass, first[position].output_ids.len()), (2, 1));
    }
    // Four at a time, in the workload's order.
    let first_ns: Vec<u64> = full.iter().map(|record| record.token_ns[0]).collect();
    assert!(first_ns[5] > first_ns[..4].iter().copied().max().unwrap(), "{first_ns:?}");
    assert!(full.iter().any(|record| *record.token_ns.last().unwrap() < first_ns[6]), "{first_ns:?}");
    let (equal, all) = equal_tokens(full, &expected);
    assert!(equal * 100 >= all * 95, "{equal} of {all} tokens are those of candle");
    assert_eq!(driver.records().0, [], "records are sent once");
    driver.send(&Request::Shutdown);
    assert!(driver.close().success());
}

fn check_hello(hello: &Message) {
    let Message::Hello { protocol_version, engine_version, libraries, packages, .. } = hello else {
        panic!("{hello:?}")
    };
    assert_eq!(*protocol_version, PROTOCOL_VERSION);
    assert!(engine_version.starts_with("0."), "{engine_version}");
    assert_eq!(libraries["transformers"], packages["transformers"]);
    assert!(libraries["python"].starts_with("3.") && libraries["torch"].starts_with("2."), "{libraries:?}");
}

fn check_loaded(loaded: &Message) {
    let Message::Loaded { parameters, dtype, devices, requests, .. } = loaded else { panic!("{loaded:?}") };
    assert_eq!((*requests, dtype.as_str()), (RAGGED.len() as u64, "float32"));
    assert_eq!(*parameters, None, "weights for processors are packed");
    assert_eq!(devices.len(), 1);
    assert_eq!((devices[0].kind, &devices[0].uuid), (DeviceKind::Cpu, &None));
    let expected = [
        ("device", json!("cpu")),
        ("dtype", json!("float32")),
        ("engine_core", json!("in_process")),
        ("max_num_seqs", json!(4)),
        ("max_model_len", json!(128)),
        ("kv_cache_memory_bytes", json!(1 << 26)),
        ("enable_prefix_caching", json!(false)),
        ("enforce_eager", json!(true)),
        ("compilation_mode", json!("NONE")),
        ("attention_backends", json!(["CPU_ATTN"])),
        ("seed", json!(42)),
        ("sampling", json!("greedy")),
    ];
    for (key, value) in expected {
        assert_eq!(settings(loaded)[key], value, "{key}");
    }
    let number = |key: &str| settings(loaded)[key].as_u64().unwrap();
    assert_eq!(number("kv_cache_tokens"), number("num_gpu_blocks") * number("block_size"));
    assert!(number("max_num_batched_tokens") >= 128);
}

/// The model's own defaults beside it must have no effect.
fn name_eos(kitchen: &Kitchen, eos: u32) {
    let text = json!({"eos_token_id": [eos], "repetition_penalty": 1.9, "do_sample": true, "temperature": 0.6});
    fs_err::write(kitchen.model.join("generation_config.json"), text.to_string()).unwrap();
}

#[test]
fn the_end_of_sequence_token_ends_a_request_only_when_it_counts() {
    let Some(kitchen) = Kitchen::of(&VLLM) else { return };
    let requests = workload(&[(9, 24), (30, 24), (4, 24), (12, 6)]);
    let whole = kitchen.by_candle(&requests, true);
    let eos = whole[1].output_ids[10];
    name_eos(&kitchen, eos);
    let mut driver = kitchen.driver(&[UNBOUND]);
    let options = json!({"enable_prefix_caching": true, "max_num_seqs": 2});
    let loaded = driver.loads(&kitchen.load(on_processor(&kitchen, &options), &requests, false));
    assert_eq!(settings(&loaded)["enable_prefix_caching"], json!(true));
    assert_eq!(settings(&loaded)["eos_token_ids"], json!([eos]));
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
fn sampling_gives_every_pass_the_same_work_in_a_core_of_its_own() {
    let Some(kitchen) = Kitchen::of(&VLLM) else { return };
    let requests = workload(&RAGGED[..4]);
    let mut engine = on_processor(&kitchen, &json!({"max_num_seqs": 4}));
    engine.sampling = json!({"temperature": 0.9, "top_p": 0.95, "top_k": 40}).as_object().unwrap().clone();
    let mut driver = kitchen.driver(&[UNBOUND, "VLLM_ENABLE_V1_MULTIPROCESSING=1"]);
    let loaded = driver.loads(&kitchen.load(engine, &requests, true));
    assert_eq!(settings(&loaded)["engine_core"], json!("own_process"));
    let first_pass = driver.pass(0, true, false);
    let second_pass = driver.pass(1, true, false);
    let (records, _) = driver.records();
    let (first, second) = records.split_at(requests.len());
    check_stamps(first, first_pass);
    check_stamps(second, second_pass);
    assert_eq!(outputs(first), outputs(second), "every pass is the same work");
    assert_ne!(outputs(first), outputs(&kitchen.by_candle(&requests, true)), "sampled, not greedy");
    assert!(driver.close().success());
}

#[test]
fn an_adapter_is_applied() {
    let Some(kitchen) = Kitchen::of(&VLLM) else { return };
    let requests = workload(&RAGGED[..3]);
    let mut engine = on_processor(&kitchen, &json!({"lora": {"max_lora_rank": 8}}));
    let adapter = write_adapter(&kitchen.model, 8, 0);
    engine.lora = json!({"adapter": adapter, "merge_weights": false}).as_object().cloned();
    let mut driver = kitchen.driver(&[UNBOUND]);
    let loaded = driver.loads(&kitchen.load(engine, &requests, true));
    assert_eq!(settings(&loaded)["lora"], json!({"directory": adapter, "merged": false, "layers": 1}));
    let pass = driver.pass(0, true, false);
    let (records, _) = driver.records();
    check_stamps(&records, pass);
    assert_ne!(outputs(&records), outputs(&kitchen.by_candle(&requests, true)), "the adapter has an effect");
    assert!(driver.close().success());
}

/// An adapter of one layer's queries that is not small.
pub(crate) fn write_adapter(model: &Path, rank: u64, layer: u32) -> PathBuf {
    let directory = model.join(format!("adapter-{rank}-{layer}"));
    fs_err::create_dir(&directory).unwrap();
    let config = json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none",
        "base_model_name_or_path": "", "task_type": "CAUSAL_LM",
    });
    fs_err::write(directory.join("adapter_config.json"), config.to_string()).unwrap();
    let (name, bytes) = (format!("base_model.model.model.layers.{layer}.self_attn.q_proj"), 64 * rank * 4);
    let header = json!({
        format!("{name}.lora_A.weight"): {"dtype": "F32", "shape": [rank, 64], "data_offsets": [0, bytes]},
        format!("{name}.lora_B.weight"): {"dtype": "F32", "shape": [64, rank], "data_offsets": [bytes, 2 * bytes]},
    });
    let header = header.to_string();
    let weights = (0..2 * 64 * rank).flat_map(|place| (((place * 37 % 101) as f32 - 50.0) / 10.0).to_le_bytes());
    let file: Vec<u8> = (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(weights).collect();
    fs_err::write(directory.join("adapter_model.safetensors"), file).unwrap();
    directory
}

/// Loads and gives the error that the driver ends with.
pub(crate) fn refusal(kitchen: &Kitchen, engine: EngineSpec, length: (usize, u32)) -> Driver {
    let mut driver = kitchen.driver(&[UNBOUND]);
    driver.send(&kitchen.load(engine, &workload(&[length]), true));
    driver
}

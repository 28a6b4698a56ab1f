//! Compilation, caches, speculation, adapters, quantisation: the tokens, and what the driver says of itself.

use std::path::{Path, PathBuf};

use llem_protocol::EngineSpec;
use serde_json::{Map, Value, json};

use crate::generation::{RAGGED, outputs};
use crate::harness::{Driver, Kitchen, workload};

fn with(mut engine: EngineSpec, options: Value) -> EngineSpec {
    let Value::Object(options) = options else { panic!("options are an object") };
    engine.options.extend(options);
    engine
}

/// The tokens of one pass.
fn tokens(driver: &mut Driver) -> Vec<Vec<u32>> {
    driver.pass(0, true, false);
    outputs(&driver.records().0).into_iter().map(<[u32]>::to_vec).collect()
}

/// Batches of several sizes, either cache, compiled or not: padding, cache and compiler must not be seen in what comes out.
#[test]
fn tokens_depend_on_neither_batch_nor_cache_nor_compiler() {
    let Some(kitchen) = Kitchen::new() else { return };
    let requests = workload(&RAGGED);
    let expected: Vec<_> = kitchen.by_candle(&requests, true).into_iter().map(|record| record.output_ids).collect();
    let fixed = json!({"implementation": "static", "max_cache_len": 128});
    let compile = json!({"backend": "aot_eager"});
    let cases = [
        (1, json!({})),
        (4, json!({})),
        (8, json!({})),
        (1, json!({"cache": {"implementation": "static"}})),
        (8, json!({"cache": fixed})),
        (4, json!({"compile": compile})),
        (8, json!({"cache": fixed, "compile": compile})),
    ];
    for (size, options) in cases {
        let mut driver = kitchen.pytorch();
        let request = kitchen.load(with(kitchen.batches(size), options.clone()), &requests, true);
        let (settings, stretches) = driver.compiles(&request);
        let asked = options.get("compile").is_some();
        assert_eq!((settings["compile"].is_object(), !stretches.is_empty()), (asked, asked), "{options}");
        let start_ns = driver.pass(0, false, false).start_ns;
        for stretch in &stretches {
            assert!(stretch.start_ns < stretch.end_ns && stretch.end_ns < start_ns, "{stretch:?}");
        }
        assert_eq!(tokens(&mut driver), expected, "batches of {size}, {options}");
        assert_eq!(driver.pass(1, false, true).output_tokens, RAGGED.len() as u64);
    }
}

#[test]
fn what_is_compiled_and_by_whom_is_said() {
    let Some(kitchen) = Kitchen::new() else { return };
    let options = json!({"cache": {"implementation": "static"}, "compile": {"backend": "eager", "fullgraph": true}});
    let request = kitchen.load(with(kitchen.batches(2), options), &workload(&RAGGED[..2]), true);
    let compile = kitchen.pytorch().compiles(&request).0["compile"].take();
    assert_eq!((&compile["what"], &compile["backend"]), (&json!("decoding"), &json!("eager")));
    assert_eq!((&compile["fullgraph"], &compile["mode"]), (&json!(true), &Value::Null));
    assert!(compile["graphs"].as_u64().unwrap() >= 1, "{compile}");
    assert!(compile["caches"]["TORCHINDUCTOR_CACHE_DIR"].as_str().unwrap().starts_with("/tmp/"), "{compile}");
}

/// Guesses that are always right (the model itself), sometimes (another model), and those of earlier tokens.
#[test]
fn guesses_change_when_tokens_come_and_nothing_else() {
    let Some(kitchen) = Kitchen::new() else { return };
    let requests = workload(&RAGGED);
    let expected: Vec<_> = kitchen.by_candle(&requests, true).into_iter().map(|record| record.output_ids).collect();
    let own = json!({"assistant_model": kitchen.model, "num_assistant_tokens": 3});
    for speculative in [own.clone(), json!({"prompt_lookup_num_tokens": 4})] {
        let mut driver = kitchen.pytorch();
        let engine = with(kitchen.batches(1), json!({"speculative": speculative}));
        driver.loads(&kitchen.load(engine, &requests, true));
        let first = driver.pass(0, true, true);
        assert_eq!(first.output_tokens, RAGGED.len() as u64);
        let pass = driver.pass(1, true, false);
        let (records, _) = driver.records();
        let records = &records[RAGGED.len()..];
        assert_eq!(outputs(records), expected.iter().map(Vec::as_slice).collect::<Vec<_>>(), "{speculative}");
        for record in records {
            assert_eq!(record.token_ns.len(), record.output_ids.len());
            assert!(record.token_ns.is_sorted() && *record.token_ns.last().unwrap() <= pass.end_ns);
        }
        if speculative == own {
            let mut steps = records[5].token_ns.clone();
            steps.dedup();
            assert!(steps.len() * 2 <= records[5].token_ns.len(), "{} steps for {} tokens", steps.len(), RAGGED[5].1);
        }
    }
}

/// An adapter of the query projections as PEFT writes it, for as many layers as asked.
fn adapter(place: &Path, layers: usize) -> PathBuf {
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 32, "target_modules": ["q_proj"], "bias": "none",
        "lora_dropout": 0.0, "inference_mode": true, "base_model_name_or_path": null,
    });
    fs_err::write(place.join("adapter_config.json"), config.to_string()).unwrap();
    let (mut header, mut data) = (Map::new(), Vec::new());
    for layer in 0..layers {
        for (part, shape) in [("A", [2, 64]), ("B", [64, 2])] {
            let start = data.len();
            data.extend(
                (0..128).flat_map(|place| (((place * 37 + layer * 11) % 19) as f32 / 19.0 - 0.5).to_le_bytes()),
            );
            let name = format!("base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight");
            header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
        }
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs_err::write(place.join("adapter_model.safetensors"), file).unwrap();
    place.to_owned()
}

#[test]
fn an_adapter_counts_merged_or_not() {
    let Some(kitchen) = Kitchen::new() else { return };
    let requests = workload(&RAGGED[..4]);
    let fitting = adapter(&kitchen.place("adapter"), 2);
    let run = |merge: bool| {
        let mut engine = kitchen.batches(2);
        engine.lora = json!({"adapter": fitting, "merge_weights": merge}).as_object().cloned();
        let mut driver = kitchen.pytorch();
        let lora = driver.compiles(&kitchen.load(engine, &requests, true)).0["lora"].take();
        assert_eq!((&lora["layers"], &lora["rank"], &lora["merge_weights"]), (&json!(2), &json!(2), &json!(merge)));
        tokens(&mut driver)
    };
    let (beside, merged) = (run(false), run(true));
    assert_eq!(beside, merged);
    let without: Vec<_> = kitchen.by_candle(&requests, true).into_iter().map(|record| record.output_ids).collect();
    assert_ne!(beside, without, "the adapter has an effect");

    let mut engine = kitchen.batches(1);
    engine.lora = json!({"adapter": adapter(&kitchen.place("longer"), 3), "merge_weights": false}).as_object().cloned();
    let mut driver = kitchen.pytorch();
    driver.send(&kitchen.load(engine, &requests, true));
    let (class, _, text) = driver.error();
    assert_eq!(class, Some(llem_protocol::FailureClass::InvalidConfig));
    assert!(text.contains("the LoRA adapter does not fit the model: the model has no place for"), "{text}");
}

#[test]
fn layers_are_seen_to_be_quantised() {
    let Some(kitchen) = Kitchen::new() else { return };
    let requests = workload(&RAGGED[..4]);
    for quantization in [json!({"load_in_8bit": true}), json!({"load_in_4bit": true, "bnb_4bit_quant_type": "nf4"})] {
        let mut driver = kitchen.pytorch();
        let engine = with(kitchen.batches(2), json!({"quantization": quantization}));
        let found = driver.compiles(&kitchen.load(engine, &requests, true)).0["quantization"].take();
        // Seven matrices a layer.
        assert_eq!((&found["method"], &found["quantized_layers"]), (&json!("bitsandbytes"), &json!(14)), "{found}");
        let lengths: Vec<_> = tokens(&mut driver).iter().map(|ids| ids.len() as u32).collect();
        assert_eq!(lengths, [12, 1, 20, 33]);
    }
}

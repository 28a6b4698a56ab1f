//! The forward pass against transformers: greedy tokens of the same weights in float32 must be the same.
//!
//! transformers runs in a container of an image that the machine may have; without it the test says so and passes.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use common::{batch, edit_config, generate, model, outputs, workload, write_workload};
use llem_model::{Architecture, SyntheticSpec};
use serde::Deserialize;
use serde_json::{Value, json};

/// An image with python3, torch and transformers, made by `tests/images/pytorch-cpu/build`.
const IMAGE: &str = "llem-tests/pytorch-cpu:2";
/// Prompt and output lengths of the requests.
const LENGTHS: [(usize, u32); 8] = [(5, 40), (64, 40), (17, 40), (33, 40), (1, 48), (9, 32), (120, 64), (2, 5)];

#[derive(Deserialize)]
struct Reference {
    versions: String,
    checkpoint_dtype: String,
    parameters: u64,
    eos_id: u32,
    vocab: u32,
    round_trip: bool,
    outputs: Vec<Vec<u32>>,
}

#[test]
fn greedy_tokens_equal_those_of_transformers() {
    let inspection = Command::new("docker").args(["image", "inspect", IMAGE]).output();
    if !inspection.is_ok_and(|inspection| inspection.status.success()) {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: the Docker engine does not answer or has no image {IMAGE} (tests/images/pytorch-cpu/build)"
        );
        return;
    }
    // The scaling of Llama 3.1 for an original context that the requests exceed by far.
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    });
    let cases = [
        (Architecture::Llama, false, Value::Null),
        (Architecture::Qwen2, true, Value::Null),
        (Architecture::Llama, true, llama3),
    ];
    for (architecture, tie_word_embeddings, rope_scaling) in cases {
        let dir = tempfile::tempdir().unwrap();
        let spec = SyntheticSpec { architecture, tie_word_embeddings, ..SyntheticSpec::default() };
        let path = model(&dir, &spec);
        edit_config(&path, "rope_scaling", rope_scaling);
        let requests = workload(&LENGTHS, spec.vocab);
        write_workload(dir.path(), &requests);
        let reference = transformers(dir.path(), path.strip_prefix(dir.path()).unwrap());
        let records = generate(dir.path(), batch(&path, 4), &requests, true);

        assert_eq!(outputs(&records), reference.outputs);
        assert_eq!(reference.parameters, spec.geometry().parameters());
        assert_eq!((reference.vocab, reference.eos_id), (spec.vocab, spec.geometry().eos_ids[0]));
        assert_eq!(reference.checkpoint_dtype, "torch.bfloat16");
        assert!(reference.round_trip, "the tokenizer does not give text back");
        let tokens: usize = reference.outputs.iter().map(Vec::len).sum();
        println!("{architecture:?}: {tokens} tokens equal those of {}", reference.versions);
    }
}

fn transformers(dir: &Path, model: &Path) -> Reference {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference.py");
    let output = Command::new("docker")
        .args([
            "run",
            "--rm",
            "--network",
            "none",
            "--read-only",
            "--tmpfs",
            "/tmp",
            "--label",
            "llem-candle-reference",
        ])
        .args(["--env", "HOME=/tmp", "--env", "OMP_NUM_THREADS=1", "--env", "HF_HUB_OFFLINE=1"])
        .arg("--volume")
        .arg(format!("{}:/data:ro", dir.display()))
        .arg("--volume")
        .arg(format!("{script}:/reference.py:ro"))
        .args([IMAGE, "python3", "/reference.py"])
        .arg(Path::new("/data").join(model))
        .args(["/data/workload.jsonl", "4"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

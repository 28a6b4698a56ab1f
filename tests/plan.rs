//! What is said before anything is started, and what holds a study to it: plan, checks of the machine, lock file, result table.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a command printed and how it ended.
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Said {
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// A directory with a study and nothing of the user's own.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs_err::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs_err::write(self.path(name), content).unwrap();
    }

    /// `llem`, piped, with a machine's config of its own.
    fn llem(&self, arguments: &[&str]) -> Said {
        self.llem_with(&json!({"runner": "process"}), arguments)
    }

    fn llem_with(&self, user: &Value, arguments: &[&str]) -> Said {
        self.write("user.yaml", &user.to_string());
        let output = Command::new(env!("CARGO_BIN_EXE_llem"))
            .args(arguments)
            .current_dir(self.0.path())
            .env("LLEM_CONFIG", self.path("user.yaml"))
            .env("LLEM_OUTPUT", self.path("results"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("HF_HOME", self.path("hf"))
            .env_remove("DOCKER_HOST")
            .env_remove("COLUMNS")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Said { code: output.status.code().unwrap(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// The directories of the studies that were started.
    fn studies(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs_err::read_dir(self.path("results")) else { return Vec::new() };
        let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }
}

/// Free space and directories differ from machine to machine.
fn same_everywhere(place: &Place, text: &str) -> String {
    let text = text.replace(&format!("{}/", place.0.path().display()), "");
    let digits = |line: &str| line.split_once(" GB free").map(|(before, after)| (before.len(), after.to_owned()));
    let line = |line: &str| match digits(line) {
        Some((end, after)) => {
            let start = line[..end].rfind(|c: char| !c.is_ascii_digit() && c != '.').map_or(0, |at| at + 1);
            format!("{}[..] GB free{after}", &line[..start])
        }
        None => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

const SMALL: &str = "
name: small
model: {synthetic: {layers: 1, hidden: 64, intermediate: 128, heads: 4, kv_heads: 2, vocab: 512}}
backend: candle
dtype: float32
workload: {n: 4, input_tokens: 12, output_tokens: 6}
measurement: {min_seconds: 0.3, warmup_passes: 1, baseline_seconds: 0}
sweep: {candle.batch_size: [1, 4, 4.0]}
execution: {n_cycles: 2}
";

/// The description of Llama 3.1 8B.
const LLAMA: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}"#;

const LARGE: &str = "
name: large
model: ./llama
backend: vllm
vllm: {image: 'example/vllm:1'}
workload: {n: 64, input_tokens: 1000, output_tokens: 24}
sweep: {vllm.gpu_memory_utilization: [0.92, 0.15]}
";

fn gib(value: &Value) -> f64 {
    value.as_f64().unwrap() / f64::from(1 << 30)
}

#[test]
fn the_plan_of_a_small_study_reads_at_80_columns() {
    let place = Place::new();
    place.write("small.yaml", SMALL);
    let plan = place.llem(&["run", "small.yaml", "--dry-run"]).exits(0);
    insta::assert_snapshot!("small", same_everywhere(&place, &plan.stdout));
    assert!(!place.path("results").exists() && !place.path("cache").exists(), "nothing is written");
}

#[test]
fn memory_is_said_for_gpus_that_are_not_here() {
    let place = Place::new();
    place.write("large.yaml", LARGE);
    place.write("llama/config.json", LLAMA);
    let refused = place.llem(&["run", "large.yaml", "--dry-run", "--vram-gib", "80"]).exits(1);
    insta::assert_snapshot!("large", same_everywhere(&place, &refused.stdout));
    // 0.15 · 80 GiB are less than 15.0 GiB of weights.
    assert!(
        refused
            .stderr
            .contains("experiment 2: the weights take 15.0 GiB, `vllm.gpu_memory_utilization: 0.15` allows 12.0 GiB")
    );
    let json = place.llem(&["run", "large.yaml", "--dry-run", "--vram-gib", "80", "--format", "json"]).exits(1).json();
    let memory = &json["experiments"][0]["memory"];
    assert_eq!(memory["weights_bytes"], 16_059_990_016_u64);
    assert_eq!((gib(&memory["kv_cache_bytes"]), memory["verdict"].as_str()), (8.0, Some("fits")));
    let shown = ["weights_bytes", "kv_cache_bytes", "needed_bytes"].map(|key| format!("{:.1}", gib(&memory[key])));
    let row = refused.stdout.lines().find(|line| line.starts_with("1 ")).unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells[2..6], [&shown[0], &shown[1], &shown[2], "yes"], "{row}");
    assert_eq!(json["impossible"][0]["experiments"], json!([2]));
    // Eight GPUs' worth of plan says nothing about a machine without one.
    if !Path::new("/proc/driver/nvidia/gpus").exists() {
        let here = place.llem(&["run", "large.yaml", "--dry-run"]).exits(1);
        assert!(here.stderr.contains("experiments 1–2: it computes on a GPU, and the NVIDIA driver lists no GPU"));
    }
}

/// Three keys, one of them with a range, are wider than a terminal: names are broken at spaces, numbers never.
#[test]
fn the_table_of_a_study_keeps_its_numbers_whole() {
    let place = Place::new();
    let keys = "sweep: {candle.batch_size: [1, 4], workload.output_tokens: [6, 8], workload.input_tokens: [12, {min: 4, max: 9}]}\n";
    let (head, tail) = SMALL.split_once("sweep:").unwrap();
    let (_, tail) = tail.split_once('\n').unwrap();
    place.write("wide.yaml", &format!("{head}{keys}{tail}"));
    let table = place.llem(&["run", "wide.yaml"]).exits(0).stdout;
    let mut rows = table.lines().take_while(|line| !line.starts_with("mean ±"));
    assert_eq!(
        rows.next().unwrap().split_whitespace().collect::<Vec<_>>().join(" "),
        "experiment runs tokens/s TTFT ms ITL ms J/token"
    );
    let rows: Vec<&str> = rows.collect();
    assert_eq!(rows.len(), 16, "{table}");
    for pair in rows.chunks(2) {
        assert!(pair[0].starts_with("batch_size=") && pair[0].contains(" 0/2 ! "), "{table}");
        // Tokens per second, TTFT and ITL: each has its spread below it.
        assert!(pair[0].matches('±').count() == 0 && pair[1].matches("± ").count() == 3, "{table}");
        assert!(pair.iter().all(|line| line.chars().count() <= 80), "{table}");
    }
    assert!(table.contains("input_tokens=4..9") && table.contains("! no valid run: "), "{table}");
}

/// What `llem run` would refuse once the weights are there.
#[test]
fn requests_that_the_model_cannot_hold_are_told_before() {
    let place = Place::new();
    place.write("llama/config.json", &LLAMA.replace("131072", "1024"));
    place.write("long.yaml", &format!("{LARGE}\n"));
    let said = |set: &str| {
        place.llem(&["run", "long.yaml", "--dry-run", "--vram-gib", "80", "--set", "sweep={}", "--set", set])
    };
    let refused = said("workload={dataset: synthetic, n: 8, input_tokens: 1000, output_tokens: 25}").exits(1);
    let why = "experiment 1: its requests have 1025 tokens with their output, the model holds 1024";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    for fits in ["1000, output_tokens: 24", "{min: 900, max: 2000}, output_tokens: 24"] {
        let plan = said(&format!("workload={{dataset: synthetic, n: 8, input_tokens: {fits}}}"));
        assert!(!plan.stderr.contains("the model holds"), "{}", plan.stderr);
    }
}

#[test]
fn every_example_is_planned_within_80_columns() {
    let place = Place::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for example in ["quickstart", "sweep", "tensorrt", "vllm"] {
        let file = examples.join(example).with_extension("yaml").display().to_string();
        let plan = place.llem(&["run", &file, "--dry-run", "--vram-gib", "80"]).exits(0).stdout;
        let widest = plan.lines().max_by_key(|line| line.chars().count()).unwrap();
        assert!(widest.chars().count() <= 80, "{example}: {widest}");
    }
}

#[test]
fn weights_that_cannot_be_had_are_refused_with_their_place() {
    let place = Place::new();
    place.write("large.yaml", LARGE);
    let refused = place.llem(&["run", "large.yaml", "--dry-run"]).exits(2);
    assert!(
        refused.stderr.contains("large.yaml:3") && refused.stderr.contains("no such model directory"),
        "{}",
        refused.stderr
    );
}

/// A study that was run tells how long it takes, is the same as locked, and has one table in three forms.
#[test]
fn a_study_that_was_run_is_known_again() {
    let place = Place::new();
    place.write("small.yaml", SMALL);
    place.llem(&["run", "small.yaml"]).exits(0);
    let first = place.studies().pop().unwrap();
    assert_csv_is_parquet(&first);

    let plan = place.llem(&["run", "small.yaml", "--dry-run", "--format", "json"]).exits(0).json();
    let time = &plan["experiments"][0]["time"];
    assert_eq!((time["measured_runs"].as_u64(), plan["time"]["measured_runs"].as_u64()), (Some(2), Some(4)));
    assert!(time["measured_s"].as_f64().unwrap() >= 0.3 && plan["time"]["expected_s"].as_f64().unwrap() >= 1.2);

    let lock = first.join("study.lock.json").display().to_string();
    place.llem(&["run", "small.yaml", "--locked", &lock]).exits(0);
    fs_err::copy(&lock, place.path("small.lock.json")).unwrap();
    let drifted = place.llem(&["run", "small.yaml", "--locked", "--set", "workload.n=5"]).exits(1);
    assert!(drifted.stderr.contains("small.lock.json is not kept, nothing was started:"), "{}", drifted.stderr);
    assert!(drifted.stderr.contains("experiments (design_hash)") && drifted.stderr.contains("workload of experiment"));
    let mut other: Value = serde_json::from_slice(&fs_err::read(&lock).unwrap()).unwrap();
    let (model, _) = other["weights"].as_object().unwrap().iter().next().unwrap();
    let model = model.clone();
    other["weights"][&model]["content_sha256"] = json!("0000");
    other["llem"]["agent_sha256"] = json!("1111");
    place.write("small.lock.json", &other.to_string());
    let drifted = place.llem(&["run", "small.yaml", "--locked"]).exits(1);
    let said = |text: &str| assert!(drifted.stderr.contains(text), "{text}\n{}", drifted.stderr);
    said("  llem-agent sha256\n    locked  1111\n    found   ");
    said(&format!("  {model}\n    locked  content sha256 0000\n    found   content sha256 "));
    place.write("small.lock.json", "{}");
    let other = place.llem(&["run", "small.yaml", "--locked"]).exits(1);
    assert!(other.stderr.contains("no lock file of this version of llem"), "{}", other.stderr);
    assert_eq!(place.studies().len(), 2, "no refused study left a directory");
}

fn parquet_rows(path: &Path) -> RecordBatch {
    let file = fs_err::File::open(path).unwrap().into_file();
    ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap()
}

/// The cells of a line, quotes taken away.
fn cells(line: &str) -> Vec<String> {
    let (mut found, mut quoted, mut rest) = (vec![String::new()], false, line.chars().peekable());
    while let Some(letter) = rest.next() {
        match letter {
            '"' if quoted && rest.peek() == Some(&'"') => found.last_mut().unwrap().push(rest.next().unwrap()),
            '"' => quoted = !quoted,
            ',' if !quoted => found.push(String::new()),
            other => found.last_mut().unwrap().push(other),
        }
    }
    found
}

fn assert_csv_is_parquet(study: &Path) {
    let table = parquet_rows(&study.join("experiments.parquet"));
    let csv = fs_err::read_to_string(study.join("experiments.csv")).unwrap();
    let mut lines = csv.lines();
    let names: Vec<String> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(cells(lines.next().unwrap()), names);
    let lines: Vec<Vec<String>> = lines.map(cells).collect();
    assert_eq!((lines.len(), table.num_rows()), (2, 2));
    let mut numbers = 0;
    for (column, name) in names.iter().enumerate() {
        let values = table.column(column);
        for (row, line) in lines.iter().enumerate() {
            let cell = &line[column];
            let expected = match values.data_type() {
                _ if values.is_null(row) => String::new(),
                DataType::Utf8 => values.as_string::<i32>().value(row).to_owned(),
                DataType::UInt64 => values.as_primitive::<UInt64Type>().value(row).to_string(),
                DataType::Float64 => {
                    numbers += 1;
                    let value = values.as_primitive::<Float64Type>().value(row);
                    assert_eq!(cell.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{name}");
                    continue;
                }
                other => panic!("{name} is {other}"),
            };
            assert_eq!(*cell, expected, "{name}");
        }
    }
    assert!(numbers >= 16, "mean and spread of four figures of two experiments, not {numbers}");
}

#[test]
fn the_machine_is_checked_without_a_study() {
    let place = Place::new();
    let fine = place.llem(&["config"]).exits(0);
    assert!(
        fine.stdout.contains("container engine") && fine.stdout.contains("not used: `runner: process`"),
        "{}",
        fine.stdout
    );
    assert!(fine.stdout.lines().all(|line| line.chars().count() <= 80), "{}", fine.stdout);
    assert!(!place.path("results").exists() && !place.path("cache").exists(), "nothing is written");

    let socket = "unix:///nowhere/docker.sock";
    let without =
        place.llem_with(&json!({"runner": "docker", "docker_host": socket}), &["config", "--format", "json"]).exits(1);
    let checks = without.json()["checks"].as_array().unwrap().clone();
    let of = |what: &str| checks.iter().find(|check| check["what"] == what).cloned().unwrap();
    let engine = of("container engine");
    assert_eq!(engine["state"], "fails");
    assert!(
        engine["found"].as_str().unwrap().contains(socket) && engine["todo"].as_str().unwrap().contains("docker_host")
    );
    assert_eq!(of("user config")["found"], place.path("user.yaml").display().to_string());

    // With `auto`, llem goes on without containers; a cache below a file cannot be made.
    let user = json!({"docker_host": socket, "cache_dir": "/proc/self/status/cache"});
    let checks = place.llem_with(&user, &["config", "--format", "json"]).exits(1).json()["checks"].clone();
    let states: Vec<_> = checks.as_array().unwrap().iter().filter(|check| check["state"] == "fails").collect();
    assert_eq!((states.len(), states[0]["what"].as_str()), (1, Some("cache")));
    let engine = checks.as_array().unwrap().iter().find(|check| check["what"] == "container engine").unwrap();
    assert_eq!(engine["state"], "warning");
}

/// Files are looked at, whether or not there is an Apptainer; an engine is not asked for them.
#[test]
fn the_machine_check_looks_at_files_for_apptainer() {
    let place = Place::new();
    let (archive, pipe, sif) = (place.path("a.tar"), place.path("pipe.sif"), place.path("x.sif"));
    fs_err::write(&archive, [7; 4096]).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut header = vec![0; 4096];
    header[32..42].copy_from_slice(b"SIF_MAGIC\0");
    fs_err::write(&sif, header).unwrap();
    let user = json!({"runner": "apptainer", "images": {"pytorch": sif, "vllm": archive, "tensorrt": pipe}});
    let checks = place.llem_with(&user, &["config", "--format", "json"]).json()["checks"].clone();
    let of = |checks: &Value, what: &str| {
        let found = checks.as_array().unwrap().iter().find(|check| check["what"] == what).unwrap();
        (found["state"].as_str().unwrap().to_owned(), found["found"].as_str().unwrap().to_owned())
    };
    assert_eq!(of(&checks, "image of pytorch").0, "ok");
    let (state, found) = of(&checks, "image of vllm");
    assert!(state == "warning" && found.contains("a.tar: it does not begin as a SIF file"), "{found}");
    let (state, found) = of(&checks, "image of tensorrt");
    assert!(state == "warning" && found.contains("pipe.sif: it is no plain file"), "{found}");
}

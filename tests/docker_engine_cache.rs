//! The engine cache through whole runs in containers: with the stand-in of TensorRT-LLM on a GPU that only NVML has, and with a stand-in of a
//! compiler on the processor.

use std::path::{Path, PathBuf};
use std::process::Command;

use fake_nvml::{Device, Script};
use llem::engine_cache::{CacheOutcome, CacheRecord};
use llem_protocol::Phase;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Bench, Finished, PYTORCH_IMAGE, Program, Proxy, compiler_image, eventually, fault_library, has_image,
    tensorrt_image,
};

/// The GPU of the stand-in.
const GPU: &str = "GPU-5ca1ab1e-0000-4000-8000-000000000000";

/// A study that builds an engine on a machine with one GPU, and a cache of its own. `None`, with a line that says so, where that cannot be
/// acted out.
fn site(name: &str) -> Option<Bench> {
    let mut bench = Bench::docker(name)?;
    let can_mount = Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|run| run.status.success());
    if !can_mount {
        let _ =
            std::io::Write::write_all(&mut std::io::stderr(), b"skipped: the GPU's files need root and `unshare`\n");
    }
    if !can_mount || !has_image(PYTORCH_IMAGE) {
        return None;
    }
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("tensorrt");
    bench.study["dtype"] = json!("bfloat16");
    bench.study["tensorrt"] = json!({"engine": "tensorrt", "build": {"max_batch_size": 4, "max_seq_len": 64}});
    for directory in ["log", "nvml", "locks"] {
        fs_err::create_dir(bench.path(directory)).unwrap();
    }
    bench.user = json!({
        "images": {"tensorrt": tensorrt_image("1.2.1")},
        // Each site is a machine of its own, with the same GPU.
        "gpu": {"access": "devices", "devices": [GPU], "lock_dir": bench.path("locks")},
        "engine_cache_dir": bench.path("engines"),
        "mounts": [{"source": bench.path("log"), "target": "/log", "read_only": false}],
        "env": {"LLEM_STANDIN_FILE": "/log/script.json"},
    });
    behaves(&bench, &json!({}));
    // The container gets no GPU: the stand-in does without its device nodes.
    bench.docker_host = Some(Proxy::start(&bench.path("engine.sock")).without_gpus().address());
    bench.program = with_gpu(&bench);
    has_gpu(&mut bench, "NVIDIA H100 80GB HBM3");
    Some(bench)
}

/// `llem` where the kernel driver lists the GPU.
fn with_gpu(bench: &Bench) -> PathBuf {
    let gpu = bench.path("proc/nvidia/gpus/0000:0a:00.0");
    fs_err::create_dir_all(&gpu).unwrap();
    fs_err::write(gpu.join("information"), format!("GPU UUID: \t {GPU}\nDevice Minor: \t 0\n")).unwrap();
    let (program, proc) = (bench.path("llem-with-gpu"), bench.path("proc"));
    let mount = r#"mount --bind "$0" /proc/driver && exec "$@""#;
    let text = format!(
        "#!/bin/sh\nexec unshare --mount sh -c '{mount}' {} {} \"$@\"\n",
        proc.display(),
        env!("CARGO_BIN_EXE_llem")
    );
    fs_err::write(&program, text).unwrap();
    fs_err::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    program
}

/// What NVML says of the GPU.
fn has_gpu(bench: &mut Bench, name: &str) {
    let device = Device { uuid: GPU.to_owned(), name: name.to_owned(), ..Device::default() };
    let script = Script { devices: vec![device], ..Script::starting_now() };
    let staged = fake_nvml::stage(&bench.path("nvml"), &script).unwrap();
    bench.variables.extend(staged.map(|(name, path)| (name, path.display().to_string())));
}

/// How the stand-in of TensorRT-LLM behaves: in a file, for variables are part of keys.
fn behaves(bench: &Bench, script: &Value) {
    let mut all = json!({"log": "/log/told"});
    all.as_object_mut().unwrap().extend(script.as_object().unwrap().clone());
    fs_err::write(bench.path("log/script.json"), all.to_string()).unwrap();
}

/// How often the stand-in was asked for something.
fn told(bench: &Bench, event: &str) -> usize {
    let text = fs_err::read_to_string(bench.path("log/told")).unwrap_or_default();
    text.matches(&format!("{{\"event\": \"{event}\"")).count()
}

fn run(bench: &Bench) -> Finished {
    bench.run(&["--runner", "docker"])
}

#[track_caller]
fn record(finished: &Finished) -> CacheRecord {
    finished.results().pop().unwrap().engine_cache.unwrap_or_else(|| panic!("no engine: {}", finished.stderr))
}

/// Runs to the end; the outcome.
#[track_caller]
fn outcome(bench: &Bench) -> (CacheOutcome, String) {
    let finished = run(bench);
    finished.exits(0).leaves_no_container();
    let record = record(&finished);
    (record.outcome, record.why.unwrap_or_default())
}

/// What of a run is asked of its engine: built or loaded.
fn used(finished: &Finished) -> String {
    let settings = finished.results().pop().unwrap().engine.unwrap().settings;
    settings["compiled_engine"].as_str().unwrap().to_owned()
}

/// `llem cache …`: exit code, stdout, stderr.
fn cache(bench: &Bench, arguments: &[&str]) -> (i32, String, String) {
    let output = bench.command(&[&["cache"], arguments].concat()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn explained(bench: &Bench) -> Value {
    let file = bench.path("study.yaml");
    fs_err::write(&file, bench.study.to_string()).unwrap();
    let (code, stdout, stderr) = cache(bench, &["explain", &file.display().to_string(), "--format", "json"]);
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str::<Value>(&stdout).unwrap()[0].take()
}

/// Directories of entries, and of engines in the making or on their way out.
fn entries(bench: &Bench) -> (Vec<PathBuf>, usize) {
    let bucket = bench.path("engines/tensorrt-engine-v2");
    let list = |directory: &Path| -> Vec<PathBuf> {
        let entries = fs_err::read_dir(directory).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let is_entry = |path: &PathBuf| path.file_name().unwrap().len() == 64;
    let leftovers = list(&bucket.join(".staging")).len() + list(&bucket.join(".trash")).len();
    (list(&bucket).into_iter().filter(is_entry).collect(), leftovers)
}

/// Stops a run whose window is open.
fn stop(program: Program) -> Finished {
    program.signal(Signal::INT);
    let finished = program.finish();
    finished.is_interrupted_in(Phase::Window);
    finished
}

/// The builder is held in its window until all others wait; that its run is stopped then is no reason to throw away the engine.
#[test]
fn eight_at_once_build_once() {
    let Some(first) = site("engine-first").map(Bench::long_window) else { return };
    let others: Vec<Bench> = (0..7)
        .map(|number| {
            let mut bench = site(&format!("engine-other-{number}")).unwrap();
            for shared in ["engine_cache_dir", "mounts"] {
                bench.user[shared] = first.user[shared].clone();
            }
            bench
        })
        .collect();
    let mut builder = first.start(&["--runner", "docker"]);
    builder.until_window();
    let mut waiting: Vec<Program> = others.iter().map(|bench| bench.start(&["--runner", "docker"])).collect();
    for program in &mut waiting {
        program.until("waiting for tensorrt-engine");
    }
    let built = record(&stop(builder));
    assert_eq!((built.outcome, built.why.as_deref()), (CacheOutcome::Miss, None));
    assert!(built.build_seconds.is_some_and(|seconds| seconds > 0.0) && built.size_bytes.is_some(), "{built:?}");
    for program in waiting {
        let finished = program.finish();
        finished.exits(0).leaves_no_container();
        let found = record(&finished);
        assert_eq!((found.outcome, used(&finished).as_str()), (CacheOutcome::Hit, "loaded"));
        assert_eq!((&found.key, found.build_seconds), (&built.key, built.build_seconds));
        assert!(found.wait_seconds > 0.0, "{found:?}");
        assert!(finished.stdout.contains("compiled engines: 1 hit"), "{}", finished.stdout);
    }
    assert_eq!((told(&first, "build"), entries(&first).0.len(), entries(&first).1), (1, 1, 0));
}

#[test]
fn another_version_and_another_gpu_are_other_engines_and_pruners_leave_what_is_used() {
    let Some(mut bench) = site("engine-versions") else { return };
    assert!(
        explained(&bench)["why_no_key"].as_str().is_none_or(|why| why.contains("looked into")),
        "nothing is started"
    );
    assert_eq!(outcome(&bench), (CacheOutcome::Miss, String::new()));
    let known = explained(&bench);
    assert_eq!(known["in_cache"], json!(true), "{known}");
    let plan = |bench: &Bench| {
        let file = bench.path("study.yaml").display().to_string();
        let output = bench.command(&["run", &file, "--dry-run", "--runner", "docker"]).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(plan(&bench).contains("compiled engines: 1 in the cache, 0 to be built"), "{}", plan(&bench));

    has_gpu(&mut bench, "NVIDIA H200");
    let differences = explained(&bench)["nearest"][0]["differences"].take();
    assert_eq!(differences.as_array().map(Vec::len), Some(1), "{differences}");
    assert_eq!(differences[0]["path"], "target.gpus[0].name");
    assert!(plan(&bench).contains("compiled engines: 0 in the cache, 1 to be built"), "{}", plan(&bench));
    assert_eq!(outcome(&bench).0, CacheOutcome::Miss);
    has_gpu(&mut bench, "NVIDIA H100 80GB HBM3");

    let usual = bench.user["images"]["tensorrt"].take();
    bench.user["images"]["tensorrt"] = json!(tensorrt_image("1.2.0"));
    behaves(&bench, &json!({"version": "1.2.0"}));
    assert_eq!(outcome(&bench).0, CacheOutcome::Miss);
    assert_eq!((told(&bench, "build"), entries(&bench).0.len()), (3, 3));

    bench.user["images"]["tensorrt"] = usual;
    behaves(&bench, &json!({}));
    let bench = bench.long_window();
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    let pruner = || bench.command(&["cache", "prune", "--all"]).spawn().unwrap();
    for mut pruner in [pruner(), pruner()] {
        assert!(pruner.wait().unwrap().success());
    }
    assert_eq!(entries(&bench).0.len(), 1, "the one in use stays");
    let used = record(&stop(program));
    assert_eq!(used.outcome, CacheOutcome::Hit);
    assert!(entries(&bench).0[0].ends_with(used.key.unwrap()));
    assert_eq!(cache(&bench, &["verify"]).0, 0);
}

#[test]
fn what_is_damaged_or_does_not_load_is_built_anew_once() {
    let Some(bench) = site("engine-damage") else { return };
    assert_eq!(outcome(&bench).0, CacheOutcome::Miss);
    let plan = entries(&bench).0[0].join("content/rank0.engine");
    let mut bytes = fs_err::read(&plan).unwrap();
    bytes[40] ^= 1;
    fs_err::set_permissions(&plan, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs_err::write(&plan, bytes).unwrap();
    let (rebuilt, why) = outcome(&bench);
    assert_eq!((rebuilt, told(&bench, "build")), (CacheOutcome::Rebuilt, 2));
    assert!(why.contains("rank0.engine"), "{why}");

    // The engine is as it was published, and another GPU than NVML's refuses it.
    behaves(&bench, &json!({"compute": "8.9"}));
    let finished = run(&bench);
    finished.exits(0).leaves_no_container().says(&["does not load, and is built anew"]);
    let found = record(&finished);
    assert_eq!((found.outcome, used(&finished).as_str()), (CacheOutcome::Rebuilt, "built"));
    assert!(found.why.as_deref().unwrap().contains("deserialize"), "{found:?}");
    assert_eq!((finished.results().len(), told(&bench, "build")), (1, 3));
    assert_eq!(outcome(&bench).0, CacheOutcome::Hit);
    assert_eq!((entries(&bench).0.len(), entries(&bench).1, cache(&bench, &["verify"]).0), (1, 0, 0));
}

#[test]
fn a_killed_controller_leaves_no_engine_that_is_not_whole() {
    let Some(mut bench) = site("engine-killed") else { return };
    behaves(&bench, &json!({"build_seconds": 3000}));
    let mut program = bench.start(&["--runner", "docker"]);
    eventually("the build", || {
        assert!(program.is_running(), "{}", program.said());
        (told(&bench, "build") == 1).then_some(())
    });
    program.kill();
    behaves(&bench, &json!({}));
    let finished = run(&bench);
    finished.exits(0);
    assert_eq!(record(&finished).outcome, CacheOutcome::Miss);
    assert_eq!((entries(&bench).0.len(), entries(&bench).1), (1, 0));

    // Killed before the rename that gives a whole engine its name.
    bench.study["tensorrt"]["build"]["max_batch_size"] = json!(2);
    let key = explained(&bench)["key"].as_str().unwrap().to_owned();
    let entry = bench.path("engines/tensorrt-engine-v2").join(key);
    let usual = bench.variables.clone();
    bench.variables.extend([
        ("LD_PRELOAD", fault_library().display().to_string()),
        ("LLEM_FAULT_DIR", entry.display().to_string()),
        ("LLEM_FAULT_KILL", "1".to_owned()),
        ("LLEM_FAULT_PATHS", "1".to_owned()),
    ]);
    bench.output = bench.path("killed");
    let finished = run(&bench);
    let study = finished.study_dir().join("study.json");
    assert!(!study.exists() && !entry.exists(), "killed, and before the rename:\n{}", finished.stderr);
    bench.variables = usual;
    assert_eq!((outcome(&bench).0, told(&bench, "build")), (CacheOutcome::Miss, 4));
    assert_eq!((entries(&bench).0.len(), entries(&bench).1, cache(&bench, &["verify"]).0), (2, 0, 0));
}

/// A disk of its own for the cache; unmounted when it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf) -> Self {
        fs_err::create_dir(&path).unwrap();
        let disk = Self(path);
        disk.remount(&["-t", "tmpfs", "-o", "size=256m", "none"]);
        disk
    }

    fn remount(&self, arguments: &[&str]) {
        assert!(Command::new("mount").args(arguments).arg(&self.0).status().unwrap().success());
    }

    /// Leaves no room, or all of it.
    fn fill(&self, is_full: bool) {
        let filler = self.0.join("filler");
        if !is_full {
            return fs_err::remove_file(filler).unwrap();
        }
        let mut file = fs_err::File::create(filler).unwrap();
        let full =
            std::iter::repeat_with(|| std::io::Write::write_all(&mut file, &vec![0; 1 << 16])).find_map(Result::err);
        assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_and_a_read_only_one_cost_the_cache_and_not_the_run() {
    let Some(bench) = site("engine-disks").map(Bench::long_window) else { return };
    let disk = Disk::mount(bench.path("engines"));
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    disk.fill(true);
    let unkept = record(&stop(program));
    let why = unkept.why.as_deref().unwrap();
    assert_eq!((unkept.outcome, why.contains("cannot be put into the cache")), (CacheOutcome::Private, true), "{why}");
    assert_eq!((entries(&bench).0.len(), entries(&bench).1), (0, 0));

    // Without room from the beginning nothing is started.
    let mut bench = bench;
    bench.study["measurement"]["min_seconds"] = json!(0.3);
    disk.fill(true);
    run(&bench).says(&["compiled engines need", "make room"]);
    assert_eq!((entries(&bench).0.len(), entries(&bench).1), (0, 0));

    disk.fill(false);
    assert_eq!(outcome(&bench).0, CacheOutcome::Miss);
    disk.remount(&["-o", "remount,ro"]);
    assert_eq!(outcome(&bench).0, CacheOutcome::Hit);
    bench.study["tensorrt"]["build"]["max_batch_size"] = json!(2);
    let (private, why) = outcome(&bench);
    assert_eq!(private, CacheOutcome::Private);
    assert!(why.contains("Read-only file system"), "{why}");
    assert_eq!(entries(&bench).0.len(), 1);
}

/// What compilers write is kept, given to the next run as a copy, and never taken from a run that left anything but files.
#[test]
fn what_a_compiler_leaves_is_found_again_and_stays_as_it_was() {
    let Some(mut bench) = Bench::docker("engine-compiler").filter(|_| has_image(PYTORCH_IMAGE)) else { return };
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("pytorch");
    bench.study["pytorch"] = json!({"device_map": "cpu", "compile": {}});
    let python = json!({"pytorch": "/standin/python"});
    bench.user =
        json!({"images": {"pytorch": compiler_image()}, "python": python, "engine_cache_dir": bench.path("engines")});
    let found = |finished: &Finished| finished.results().pop().unwrap().engine.unwrap().settings["found"].clone();

    bench.user["env"] = json!({"COMPILER_LEAVES_LINK": "1"});
    let finished = run(&bench);
    finished.exits(0);
    let refused = record(&finished);
    assert_eq!(refused.outcome, CacheOutcome::Private);
    assert!(refused.why.as_deref().unwrap().contains("neither a file nor a directory"), "{refused:?}");

    bench.user["env"] = json!({});
    let finished = run(&bench);
    assert_eq!((record(&finished).outcome, found(&finished)), (CacheOutcome::Miss, json!([null, null])));
    for _ in 0..2 {
        let finished = run(&bench);
        finished.exits(0).leaves_no_container();
        let names = json!(["TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"]);
        assert_eq!((record(&finished).outcome, found(&finished)), (CacheOutcome::Hit, names));
        assert!(record(&finished).build_seconds.is_some_and(|seconds| seconds >= 0.2));
        let run = finished.study_dir().join("runs").join(&finished.results()[0].run_id);
        assert!(!run.join(".engine").exists(), "the copy is gone with the run");
    }
    assert_eq!(cache(&bench, &["verify"]).0, 0, "what the runs wrote over was their own");
    assert_eq!(explained(&bench)["in_cache"], json!(true));
    bench.user["env"] = json!({"TRITON_CACHE_DIR": "/tmp/triton", "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor"});
    let (off, why) = outcome(&bench);
    assert_eq!((off, why.contains("`env` of the user config sets TORCHINDUCTOR_CACHE_DIR")), (CacheOutcome::Off, true));
}

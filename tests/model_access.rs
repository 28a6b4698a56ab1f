//! Models, adapters and draft models of the hub, through the whole program: what cannot be had is named before anything starts, what can
//! is where the engine finds it. The hub is a stand-in on this machine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use llem::result::RunResult;
use llem_protocol::{FailureClass, Job, Phase};
use serde_json::{Value, json};

use crate::support::{Access, Bench, COMMIT, Finished, Repository, StandInHub};

const SECRET: &str = "hf_AccessSecret";

fn hub() -> StandInHub {
    let secret = || SECRET.to_owned();
    StandInHub::start([
        ("org/open", Repository::model(Access::Everybody)),
        ("org/gated", Repository::model(Access::Gated(secret()))),
        ("org/private", Repository::model(Access::Private(secret()))),
        ("org/pickled", Repository::model(Access::Everybody).without("model.safetensors")),
        ("org/bare", Repository::model(Access::Everybody).without("tokenizer.json")),
        ("org/adapter", Repository::adapter(Access::Everybody)),
        ("org/gated-adapter", Repository::adapter(Access::Gated(secret()))),
    ])
}

fn bench(name: &str, hub: &StandInHub, model: &str) -> Bench {
    let mut bench = Bench::new(name).with_hub(&hub.url);
    bench.study["model"] = json!(model);
    bench
}

fn run(bench: &Bench) -> Finished {
    bench.run(&["--runner", "process"])
}

/// Checks that nothing was started, and what is said.
#[track_caller]
fn refuses(bench: &Bench, exit: i32, parts: &[&str]) {
    let finished = run(bench);
    finished.exits(exit).says(parts).says(&["/study.yaml:1:"]);
    assert!(!bench.output.exists(), "a study directory was made");
    assert_eq!(finished.stdout, "");
}

/// `pytorch` with an interpreter that dies at once: what it was given is in the run's files.
fn with_stand_in_engine(bench: &mut Bench) {
    let interpreter = bench.path("python");
    fs_err::write(&interpreter, "#!/bin/sh\nexit 7\n").unwrap();
    fs_err::set_permissions(&interpreter, std::fs::Permissions::from_mode(0o755)).unwrap();
    bench.user = json!({"python": {"pytorch": interpreter}});
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("pytorch");
    bench.study["pytorch"] = json!({"device_map": "cpu"});
}

/// The job and the result of a run of [`with_stand_in_engine`].
fn given(finished: &Finished) -> (Job, RunResult) {
    finished.fails_with(FailureClass::DiedAtImport, Phase::Import);
    let result = finished.results().remove(0);
    let path = finished.study_dir().join("runs").join(&result.run_id).join("job.json");
    (serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap(), result)
}

#[test]
fn a_gated_model_is_named_with_its_page_and_what_to_do() {
    let hub = hub();
    let mut bench = bench("gated", &hub, "org/gated");
    let page = format!("model: {}/org/gated refused access to `config.json`", hub.url);
    refuses(&bench, 1, &[&page, "HTTP 401, without a token", "accept its licence on that page and set HF_TOKEN"]);
    bench.variables.insert("HF_TOKEN", "hf_another".to_owned());
    refuses(&bench, 1, &[&page, "HTTP 403, with your token", "with the token's account"]);
    bench.variables.insert("HF_TOKEN", SECRET.to_owned());
    run(&bench).exits(0);
}

#[test]
fn what_does_not_exist_is_an_error_of_the_study() {
    let hub = hub();
    let absent = "org/no-such-model does not exist, or is private: check the name";
    refuses(&bench("absent", &hub, "org/no-such-model"), 2, &[absent, "set HF_TOKEN or run `hf auth login`"]);
    let mut private = bench("private", &hub, "org/private");
    private.variables.insert("HF_TOKEN", "hf_another".to_owned());
    refuses(&private, 2, &["does not exist, or is private and your token may not read it"]);
    refuses(&bench("revision", &hub, "org/open@v9"), 2, &["org/open has no revision `v9`"]);
    let pickled = "org/pickled has no `model.safetensors`: llem reads safetensors only";
    refuses(&bench("pickled", &hub, "org/pickled"), 2, &[pickled]);
}

#[test]
fn all_that_cannot_be_had_is_named_at_once() {
    let hub = hub();
    let mut bench = bench("all-at-once", &hub, "org/open");
    with_stand_in_engine(&mut bench);
    bench.study["lora"] = json!({"adapter": "org/gated-adapter"});
    bench.study.as_object_mut().unwrap().remove("model");
    bench.study["sweep"] = json!({
        "model": ["org/open", "org/absent"],
        "pytorch.speculative.assistant_model": ["org/no-draft", "org/open@v9"],
    });
    refuses(
        &bench,
        2,
        &[
            "lora.adapter: ",
            "/org/gated-adapter refused access to `adapter_config.json`",
            "model: ",
            "/org/absent does not exist",
            "pytorch.speculative.assistant_model: ",
            "/org/no-draft does not exist",
            "/org/open has no revision `v9`",
        ],
    );
    let asked = hub.requests();
    assert!(
        asked.iter().all(|path| !path.ends_with(".safetensors")),
        "nothing large before all is looked up: {asked:?}"
    );
}

#[test]
fn a_value_of_the_command_line_is_named_as_such() {
    let hub = hub();
    let bench = bench("override", &hub, "org/open");
    let finished = bench.run(&["--runner", "process", "--set", "model=org/absent"]);
    finished.exits(2).says(&["--set model=org/absent: ", "/org/absent does not exist"]);
}

#[test]
fn a_copy_that_is_not_complete_is_named_with_what_it_lacks() {
    let hub = hub();
    let mut bench = bench("incomplete", &hub, "org/open");
    let copy = bench.path("hf/hub/models--org--open");
    let snapshot = copy.join("snapshots").join(COMMIT);
    fs_err::create_dir_all(&snapshot).unwrap();
    fs_err::create_dir_all(copy.join("refs")).unwrap();
    fs_err::write(copy.join("refs/main"), COMMIT).unwrap();
    fs_err::write(snapshot.join("config.json"), "{}").unwrap();
    // What a download that was broken off leaves: a link to nowhere.
    std::os::unix::fs::symlink("../../blobs/absent", snapshot.join("model.safetensors")).unwrap();
    bench.variables.insert("HF_HUB_OFFLINE", "1".to_owned());
    let lack = format!("the copy of org/open in {} is not complete (no model.safetensors)", snapshot.display());
    refuses(&bench, 1, &[&lack, "HF_HUB_OFFLINE is set", "run `hf download org/open --revision main`"]);
    bench.study["model"] = json!("org/elsewhere");
    refuses(&bench, 1, &["org/elsewhere cannot be reached", "run `hf download org/elsewhere --revision main`"]);
    bench.variables.remove("HF_HUB_OFFLINE");
    bench.variables.insert("HF_ENDPOINT", "http://127.0.0.1:1".to_owned());
    refuses(&bench, 1, &["http://127.0.0.1:1/org/elsewhere cannot be reached"]);
}

/// The controller can read them, a container could not.
#[test]
fn weights_behind_links_that_no_container_sees_are_refused() {
    let Some(mut bench) = Bench::docker("links") else { return };
    let (real, linked) = (bench.path("real"), bench.path("linked"));
    fs_err::create_dir_all(&real).unwrap();
    fs_err::create_dir_all(&linked).unwrap();
    for (name, content) in Repository::model(Access::Everybody).files {
        fs_err::write(real.join(&name), content).unwrap();
        std::os::unix::fs::symlink(real.join(&name), linked.join(&name)).unwrap();
    }
    bench.study["model"] = json!(linked);
    let finished = bench.run(&["--runner", "docker"]);
    let said = format!("{}/config.json is a link to {}/config.json", linked.display(), real.display());
    finished.exits(2).says(&[&said, "which containers do not see", "cp -rL"]);
    bench.run(&["--runner", "process"]).exits(0);
    bench.user["mounts"] = json!([{"source": real, "target": real}]);
    bench.run(&["--runner", "docker"]).exits(0).leaves_no_container();
}

#[test]
fn what_the_embedded_backend_does_not_compute_is_refused_before_its_weights_are_downloaded() {
    let mut repository = Repository::model(Access::Everybody);
    let config = r#"{"model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 512}"#;
    repository.files.insert("config.json".to_owned(), config.into());
    let hub = StandInHub::start([("org/other", repository)]);
    let bench = bench("other-architecture", &hub, "org/other");
    refuses(&bench, 2, &["`MistralForCausalLM` is none of those", "set `backend: pytorch`, `vllm` or `tensorrt`"]);
    assert_eq!(hub.requests(), ["/org/other/resolve/main/config.json"]);
}

#[test]
fn what_was_downloaded_once_is_enough_without_a_network() {
    let hub = hub();
    // A model of one weight file, without an index and without a tokenizer: what is absent is not asked for again.
    let mut bench = bench("own-cache", &hub, "org/bare");
    run(&bench).exits(0);
    let asked = hub.requests().len();
    bench.variables.insert("HF_HUB_OFFLINE", "1".to_owned());
    let finished = run(&bench);
    finished.exits(0);
    assert_eq!(hub.requests().len(), asked);
    let model = finished.results().remove(0).model;
    assert_eq!((model.source.as_str(), model.revision.as_deref()), ("org/bare", Some(COMMIT)));
}

#[test]
fn an_adapter_is_downloaded_and_its_directory_given_to_the_driver() {
    let hub = hub();
    let mut bench = bench("adapter", &hub, "org/open");
    with_stand_in_engine(&mut bench);
    bench.study["lora"] = json!({"adapter": "org/adapter@main", "merge_weights": true});
    let (job, result) = given(&run(&bench));
    let lora = job.engine.lora.unwrap();
    assert_eq!(lora["merge_weights"], json!(true));
    let directory = Path::new(lora["adapter"].as_str().unwrap());
    assert_eq!(fs_err::read(directory.join("adapter_model.safetensors")).unwrap(), b"weights");
    let adapter = result.adapter.unwrap();
    assert_eq!((adapter.source.as_str(), adapter.revision.as_deref()), ("org/adapter", Some(COMMIT)));
    assert_eq!(result.draft_model, None);
}

#[test]
fn a_model_that_drafts_is_a_directory_for_the_driver() {
    let hub = hub();
    let mut bench = bench("draft", &hub, "org/open");
    with_stand_in_engine(&mut bench);
    bench.study["pytorch"]["speculative"] = json!({"assistant_model": "org/bare", "num_assistant_tokens": 3});
    let (job, result) = given(&run(&bench));
    let speculative = &job.engine.options["speculative"];
    let directory = Path::new(speculative["assistant_model"].as_str().unwrap());
    assert!(directory.join("model.safetensors").is_file() && directory.ends_with(COMMIT), "{directory:?}");
    assert_eq!(speculative["num_assistant_tokens"], json!(3));
    let draft = result.draft_model.unwrap();
    assert_eq!((draft.source.as_str(), draft.revision.as_deref()), ("org/bare", Some(COMMIT)));
    assert_eq!(
        result.config.draft_model(),
        Some(("assistant_model", "org/bare")),
        "the config says what the user said"
    );
}

#[test]
fn local_adapters_are_relative_to_the_study_and_checked() {
    let hub = hub();
    let mut bench = bench("local-adapter", &hub, "org/open");
    with_stand_in_engine(&mut bench);
    bench.study["lora"] = json!({"adapter": "./mine"});
    refuses(&bench, 2, &["lora.adapter: ", "/mine: no such directory, or no adapter_config.json in it"]);
    fs_err::create_dir(bench.path("mine")).unwrap();
    for (name, content) in Repository::adapter(Access::Everybody).files {
        fs_err::write(bench.path("mine").join(name), content).unwrap();
    }
    let (job, result) = given(&run(&bench));
    let expected = fs_err::canonicalize(bench.path("mine")).unwrap().display().to_string();
    assert_eq!(job.engine.lora.unwrap()["adapter"], json!(expected));
    assert_eq!(result.adapter.unwrap().revision, None);
}

#[test]
fn containers_never_write_to_weights() {
    let Some(bench) = Bench::docker("writable-weights") else { return };
    let hub = hub();
    let mut bench = bench.with_hub(&hub.url);
    bench.study["model"] = json!("org/open");
    fs_err::create_dir(bench.path("cache")).unwrap();
    let mount = |read_only: bool| json!({"mounts": [{"source": bench.path("cache"), "target": "/data", "read_only": read_only}]});
    let (writable, read_only) = (mount(false), mount(true));
    bench.user = writable;
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(2).says(&["lets containers write to", "set `read_only: true` there"]);
    assert!(!bench.output.exists());
    bench.user = read_only;
    bench.run(&["--runner", "docker"]).exits(0).leaves_no_container();
}

#[test]
fn a_token_in_the_user_config_is_refused_without_repeating_it() {
    let hub = hub();
    let mut bench = bench("token-in-config", &hub, "org/open");
    bench.user = json!({"env": {"HF_TOKEN": SECRET}});
    let finished = run(&bench);
    finished.exits(2).says(&["env.HF_TOKEN: `HF_TOKEN` is for the access token", "engines need none"]);
    assert!(!finished.stderr.contains(SECRET), "{}", finished.stderr);
}

#[test]
fn engines_are_kept_from_the_network_in_both_runners() {
    let hub = hub();
    let mut bench = bench("offline", &hub, "org/open");
    with_stand_in_engine(&mut bench);
    fs_err::write(bench.path("python"), "#!/bin/sh\nenv >&2\nexit 7\n").unwrap();
    bench.variables.insert("HF_TOKEN", SECRET.to_owned());
    bench.variables.insert("HF_TOKEN_PATH", bench.path("token").display().to_string());
    let finished = run(&bench);
    let failure = finished.fails_with(FailureClass::DiedAtImport, Phase::Import);
    for expected in
        ["HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "HF_HUB_DISABLE_TELEMETRY=1", "VLLM_NO_USAGE_STATS=1"]
    {
        assert!(failure.log_tail.iter().any(|line| line == expected), "{expected}: {failure:?}");
    }
    assert!(!failure.log_tail.iter().any(|line| line.contains("HF_TOKEN") || line.contains(SECRET)), "{failure:?}");
    let Some(bench) = Bench::docker("offline-container") else { return };
    let mut program = bench.long_window().start(&["--runner", "docker"]);
    program.until_window();
    let inspected: Value =
        serde_json::from_str(&crate::support::docker_text(&["inspect", &program.container()])).unwrap();
    let env = inspected[0]["Config"]["Env"].as_array().unwrap().clone();
    assert!(env.contains(&json!("HF_HUB_OFFLINE=1")) && env.contains(&json!("DO_NOT_TRACK=1")), "{env:?}");
    program.signal(rustix::process::Signal::INT);
    program.finish().exits(130).leaves_no_container();
}

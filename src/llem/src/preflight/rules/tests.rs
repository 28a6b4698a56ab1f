use std::path::Path;

use super::{Obstacle, Subject};
use crate::config::{ExperimentConfig, Profile, StudyConfig};
use crate::runner::docker::ImageFacts;

fn config(backend: &str, section: &str) -> ExperimentConfig {
    let text = format!("model: organisation/name\nbackend: {backend}\n{backend}: {section}\n");
    let study = StudyConfig::from_text(Path::new("s.yaml"), &text, &[], Profile::Quick).unwrap();
    study.experiments.into_iter().next().unwrap().config
}

/// An image that can run everything.
fn whole() -> ImageFacts {
    let mut facts = ImageFacts { architecture: "amd64".to_owned(), ..ImageFacts::default() };
    let text = |text: &str| Some(text.to_owned());
    facts.agent.version = text("llem-agent 0.1.0");
    let versions = &mut facts.versions;
    (versions.python, versions.interpreter) = (text("3.12.3"), text("/usr/bin/python3"));
    versions.libc = text("glibc 2.39");
    (versions.torch, versions.transformers) = (text("2.13.0"), text("5.19.0"));
    (versions.vllm, versions.tensorrt_llm) = (text("0.33.0"), text("1.2.1"));
    facts.options = serde_json::from_value(serde_json::json!({
        "vllm": {"EngineArgs": ["max_num_seqs", "enforce_eager", "compilation_config", "max_loras"]},
        "tensorrt": {"BaseLlmArgs": ["max_batch_size"], "TorchLlmArgs": ["moe_config"], "TrtLlmArgs": ["normalize_log_probs"]},
    }))
    .unwrap();
    facts
}

fn obstacles(config: &ExperimentConfig, change: impl Fn(&mut ImageFacts)) -> Vec<Obstacle> {
    let mut facts = whole();
    change(&mut facts);
    let subject = Subject { config, image: "repo:1", facts: &facts, glibc_floor: Some((2, 34)), architecture: "amd64" };
    subject.obstacles()
}

/// The one obstacle, as `key: message`.
fn only(config: &ExperimentConfig, change: impl Fn(&mut ImageFacts)) -> String {
    let found = obstacles(config, change);
    assert_eq!(found.len(), 1, "{found:?}");
    format!("{}: {}", found[0].key, found[0].message)
}

#[test]
fn nothing_is_said_of_an_image_that_fits() {
    for (backend, section) in [
        ("pytorch", "{batch_size: 2}"),
        ("vllm", "{max_num_seqs: 2, compilation: {mode: 3}}"),
        ("tensorrt", "{engine: tensorrt, extra: {normalize_log_probs: true}}"),
        ("tensorrt", "{extra: {moe_config: {}}}"),
    ] {
        assert_eq!(obstacles(&config(backend, section), |_| {}), []);
    }
}

#[test]
fn an_image_of_another_architecture_is_refused() {
    let text = only(&config("pytorch", "{}"), |facts| facts.architecture = "arm64".to_owned());
    assert_eq!(text, "pytorch.image: `repo:1` is an image for arm64, and this machine's agent is for amd64");
}

#[test]
fn an_old_or_foreign_c_library_is_refused() {
    let with =
        |libc: &'static str| only(&config("vllm", "{}"), move |facts| facts.versions.libc = Some(libc.to_owned()));
    assert_eq!(with("glibc 2.31"), "vllm.image: `repo:1` has glibc 2.31, and llem's agent needs glibc 2.34");
    assert_eq!(with("musl"), "vllm.image: `repo:1` has the C library musl, and llem's agent needs glibc");
}

#[test]
fn the_engine_must_be_in_the_image() {
    let text = only(&config("vllm", "{}"), |facts| facts.versions.vllm = None);
    let rest = "(/usr/bin/python3 has tensorrt_llm 1.2.1, transformers 5.19.0, torch 2.13.0)";
    assert_eq!(text, format!("vllm.image: `repo:1` has no vLLM {rest}"));
    assert!(only(&config("tensorrt", "{}"), |facts| facts.versions.tensorrt_llm = None).contains("no TensorRT-LLM"));
    assert!(only(&config("pytorch", "{}"), |facts| facts.versions.torch = None).contains("no PyTorch"));
}

#[test]
fn images_without_transformers_say_how_to_get_it() {
    let found = obstacles(&config("pytorch", "{}"), |facts| facts.versions.transformers = None);
    assert!(found[0].message.contains("has no transformers"), "{found:?}");
    assert!(found[0].hint.contains("BASE=repo:1") && found[0].hint.contains("PYTHONPATH"), "{found:?}");
}

#[test]
fn a_python_that_is_too_old_or_missing_is_refused() {
    let old = only(&config("pytorch", "{}"), |facts| facts.versions.python = Some("3.9.18".to_owned()));
    assert!(old.contains("has Python 3.9.18 (/usr/bin/python3), and llem's drivers need 3.10"), "{old}");
    let none = |facts: &mut ImageFacts| facts.problem = Some("`python3`: not found".to_owned());
    assert!(only(&config("pytorch", "{}"), none).contains("no Python answers in `repo:1`: `python3`: not found"));
}

#[test]
fn options_that_this_vllm_does_not_know_are_refused_by_their_key() {
    let keys = |section| {
        let found = obstacles(&config("vllm", section), |_| {});
        found.into_iter().map(|obstacle| (obstacle.key, obstacle.message)).collect::<Vec<_>>()
    };
    let message = |option: &str| format!("vLLM 0.33.0 of `repo:1` has no option `{option}`");
    let section = "{max_num_seqs: 4, performance_mode: balanced, extra: {max_num_sequences: 1}}";
    assert_eq!(
        keys(section),
        [
            ("vllm.extra.max_num_sequences".to_owned(), message("max_num_sequences")),
            ("vllm.performance_mode".to_owned(), message("performance_mode")),
        ]
    );
    assert_eq!(keys("{speculative: {method: ngram}}")[0].1, message("speculative_config"));
    // An image that does not tell its options is not guessed at.
    let silent = obstacles(&config("vllm", "{performance_mode: balanced}"), |facts| facts.options.clear());
    assert_eq!(silent, []);
}

#[test]
fn the_compiled_engine_is_refused_where_it_is_gone() {
    let compiled = config("tensorrt", "{engine: tensorrt}");
    let late = |facts: &mut ImageFacts| {
        facts.versions.tensorrt_llm = Some("1.3.0rc24".to_owned());
        facts.options.get_mut("tensorrt").unwrap().remove("TrtLlmArgs");
    };
    let text = only(&compiled, late);
    assert_eq!(text, "tensorrt.engine: TensorRT-LLM 1.3.0rc24 of `repo:1` no longer has the engine `tensorrt`");
    assert_eq!(obstacles(&config("tensorrt", "{engine: pytorch}"), late), []);
    // Without its options, the version alone tells.
    let silent = |version: &'static str| {
        obstacles(&compiled, move |facts| {
            facts.versions.tensorrt_llm = Some(version.to_owned());
            facts.options.clear();
        })
    };
    assert_eq!((silent("1.4.0rc1").len(), silent("1.3.0rc2").len()), (1, 0));
}

#[test]
fn unknown_options_that_are_passed_verbatim_are_refused() {
    let text = only(&config("tensorrt", "{extra: {no_such_option: true}}"), |_| {});
    assert_eq!(text, "tensorrt.extra.no_such_option: TensorRT-LLM 1.2.1 of `repo:1` has no option `no_such_option`");
}

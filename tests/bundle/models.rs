//! Models of the hub in bundles, gated ones too; and bundles that have the hashes of models only.

use serde_json::json;

use super::{AirGapped, bundle, bundled, connected, said};
use crate::apptainer_runner::identity;
use crate::support::{Access, Bench, COMMIT, Repository, StandInHub};

/// No other text is like it.
const SECRET: &str = "hf_8aYtBundleSecretThatNobodyElseHas3";

/// A study of a gated model, on the side that has a token.
fn gated(name: &str) -> (Bench, StandInHub) {
    let hub = StandInHub::start([("org/gated", Repository::model(Access::Gated(SECRET.to_owned())))]);
    let mut bench = Bench::new(name).with_hub(&hub.url);
    bench.variables.insert("HF_TOKEN", SECRET.to_owned());
    bench.study["model"] = json!("org/gated");
    (bench, hub)
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_gated_model_is_in_the_bundle_and_the_token_is_not() {
    let (bench, _hub) = gated("bundle-gated");
    let unbundled = bench.run(&["--runner", "process"]);
    unbundled.exits(0);
    let file = bundled(&bench, &["--runner", "process"]);
    let content = fs_err::read(&file).unwrap();
    assert!(!holds(&content, SECRET) && holds(&content, &format!("models--org--gated/snapshots/{COMMIT}/config.json")));
    let Some(there) = AirGapped::with("bundle-gated-there", &file) else { return };
    let finished = there.run(&[]);
    finished.exits(0);
    assert_eq!(identity(&finished), identity(&unbundled));
    let model = &finished.results()[0].model;
    assert_eq!((model.source.as_str(), model.revision.as_deref()), ("org/gated", Some(COMMIT)));
}

#[test]
fn a_token_in_the_study_is_not_given_away() {
    // Those of the hub itself are refused in every study; a mirror's may look like anything.
    const OWN: &str = "mirror-0123456789";
    let mut bench = connected("bundle-token");
    bench.variables.insert("HF_TOKEN", OWN.to_owned());
    bench.study["name"] = json!("token");
    let text = format!("# my token: {OWN}\n{}", bench.study);
    fs_err::write(bench.path("own.yaml"), text).unwrap();
    let (file, target) = (bench.path("own.yaml").display().to_string(), bench.path("t.llem.tar"));
    let shown = target.display().to_string();
    let output = bench.command(&["bundle", &file, "--runner", "process", "-o", &shown]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("access token") && !said(&output).contains(OWN) && !target.exists());
}

#[test]
fn a_token_in_a_file_of_the_study_is_not_given_away() {
    const OWN: &str = "mirror-9876543210";
    let mut bench = connected("bundle-token-files");
    bench.variables.insert("HF_TOKEN", OWN.to_owned());
    let files = [super::model(&bench).join("notes.json"), bench.path("originals/my prompts.jsonl")];
    for file in &files {
        let before = fs_err::read_to_string(file).unwrap_or_default();
        let text = format!("{before}{}{}", if before.is_empty() { "" } else { "\n" }, json!({"prompt": OWN}));
        fs_err::write(file, text).unwrap();
        let (target, output) = bundle(&bench, &["--runner", "process"]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let name = file.file_name().unwrap().to_string_lossy();
        assert!(text.contains(&format!("{name}: the access token")), "{text}");
        assert!(!text.contains(OWN) && !target.exists(), "{text}");
        fs_err::write(file, before).unwrap();
    }
}

#[test]
fn hashes_alone_take_the_weights_that_are_there_and_no_others() {
    let (bench, _hub) = gated("bundle-hashes");
    let unbundled = bench.run(&["--runner", "process"]);
    unbundled.exits(0);
    let file = bundled(&bench, &["--runner", "process", "--models", "manifest"]);
    assert!(!holds(&fs_err::read(&file).unwrap(), "models--org--gated"), "no weights");
    let Some(there) = AirGapped::with("bundle-hashes-there", &file) else { return };
    there.run(&[]).exits(1).says(&["has the hashes of `org/gated` only", "hf download org/gated", COMMIT]);
    // What `hf download` leaves, copied over by hand.
    let hub = there.bench.path("home/.cache/huggingface/hub");
    let snapshot = hub.join(format!("models--org--gated/snapshots/{COMMIT}"));
    fs_err::create_dir_all(&snapshot).unwrap();
    let downloaded = bench.path(&format!("cache/llem/hub-v1/models--org--gated/snapshots/{COMMIT}"));
    for entry in fs_err::read_dir(downloaded).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
    }
    let mut there = there;
    there.bench.variables.insert("HF_HOME", there.bench.path("home/.cache/huggingface").display().to_string());
    let finished = there.run(&[]);
    finished.exits(0);
    assert_eq!(identity(&finished), identity(&unbundled));
    let weights = snapshot.join("model.safetensors");
    let mut content = fs_err::read(&weights).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs_err::write(&weights, content).unwrap();
    there.run(&[]).exits(1).says(&["org/gated", "model.safetensors has the SHA-256"]);
}

#[test]
fn hashes_alone_take_a_directory_by_its_path() {
    let bench = connected("bundle-hashes-dir");
    let file = bundled(&bench, &["--runner", "process", "--models", "manifest"]);
    let Some(there) = AirGapped::with("bundle-hashes-dir-there", &file) else { return };
    there.run(&[]).exits(0);
    let config = super::model(&bench).join("config.json");
    let text = fs_err::read_to_string(&config).unwrap();
    fs_err::write(&config, format!("{text} ")).unwrap();
    there.run(&[]).exits(1).says(&["config.json has the SHA-256"]);
    let (_, output) = bundle(&bench, &["--runner", "process", "--models", "manifest", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

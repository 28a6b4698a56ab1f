//! Synthetic models: the same bytes everywhere, whole directories only, a tokenizer that works.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use llem_model::{Architecture, Checkpoint, Geometry, SyntheticError, SyntheticSpec, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

fn tiny() -> SyntheticSpec {
    SyntheticSpec {
        layers: 1,
        hidden: 16,
        intermediate: 24,
        heads: 2,
        kv_heads: 1,
        vocab: 300,
        max_positions: 64,
        ..SyntheticSpec::default()
    }
}

fn digests(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, hex::encode(Sha256::digest(fs_err::read(path).unwrap())))
        })
        .collect()
}

#[test]
fn the_same_specification_gives_the_same_bytes() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = ensure(&tiny(), first.path()).unwrap();
    let again = ensure(&tiny(), second.path()).unwrap();
    let found = digests(&made.dir);
    assert_eq!(found, digests(&again.dir));
    // Other bytes are another version: raise `BUCKET`.
    assert_eq!(made.id, "646882173f568613");
    assert_eq!(found["model.safetensors"], "9121e91fcbf4d991f0440e87e182964e00f87e289091cf353af046d78d5cab08");
    assert_eq!(found["tokenizer.json"], "20fa9dd7068c02b6080929ff61ea83ca88e1f038257ac9bdf00ba28bffa1e840");
    assert_eq!(found["config.json"], "a364c58b2d45b9a806347e2ab7317a8f01bdaed0a8a5716dad6045d7c633599e");

    let manifest: Value = serde_json::from_slice(&fs_err::read(made.dir.join("manifest.json")).unwrap()).unwrap();
    for (name, digest) in found.iter().filter(|(name, _)| *name != "manifest.json") {
        assert_eq!(manifest["files"][name]["sha256"], digest.as_str(), "{name}");
    }
}

#[test]
fn the_directory_is_the_model_of_the_specification() {
    let cache = tempfile::tempdir().unwrap();
    for (architecture, tie_word_embeddings) in [(Architecture::Llama, false), (Architecture::Qwen2, true)] {
        let spec = SyntheticSpec { architecture, tie_word_embeddings, head_dim: Some(10), ..tiny() };
        let model = ensure(&spec, cache.path()).unwrap();
        assert_eq!(Geometry::read(&model.dir).unwrap(), model.geometry);
        let checkpoint = Checkpoint::open(&model.dir).unwrap();
        assert_eq!(checkpoint.parameters(), model.parameters);
        assert_eq!(checkpoint.dtype(), Some("BF16"));
        for tensor in model.geometry.tensors() {
            let shape: Vec<u64> = tensor.shape.iter().map(|dimension| *dimension as u64).collect();
            assert_eq!(checkpoint.tensors[&tensor.name].shape, shape, "{}", tensor.name);
        }
    }
}

#[test]
fn every_user_can_read_the_directory() {
    let cache = tempfile::tempdir().unwrap();
    let model = ensure(&tiny(), cache.path()).unwrap();
    let mode = |path: &Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&model.dir), 0o755);
    for entry in fs_err::read_dir(&model.dir).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o644);
    }
}

#[test]
fn an_existing_model_is_kept_and_a_damaged_one_made_anew() {
    let cache = tempfile::tempdir().unwrap();
    let made = ensure(&tiny(), cache.path()).unwrap();
    let whole = digests(&made.dir);
    assert!(made.built);
    assert!(!ensure(&tiny(), cache.path()).unwrap().built);
    let weights = made.dir.join("model.safetensors");
    fs_err::OpenOptions::new().write(true).open(&weights).unwrap().set_len(10).unwrap();
    assert!(ensure(&tiny(), cache.path()).unwrap().built);
    assert_eq!(digests(&made.dir), whole);
    for name in ["manifest.json", "tokenizer.json"] {
        fs_err::remove_file(made.dir.join(name)).unwrap();
        assert!(ensure(&tiny(), cache.path()).unwrap().built);
        assert_eq!(digests(&made.dir), whole);
    }
    // Nothing temporary is left.
    assert_eq!(fs_err::read_dir(made.dir.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn concurrent_builders_all_get_the_whole_model() {
    let cache = tempfile::tempdir().unwrap();
    let expected = digests(&ensure(&tiny(), tempfile::tempdir().unwrap().path()).unwrap().dir);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let model = ensure(&tiny(), cache.path()).unwrap();
                assert_eq!(digests(&model.dir), expected);
            });
        }
    });
    assert_eq!(fs_err::read_dir(cache.path().join("synthetic-v1")).unwrap().count(), 1);
}

#[test]
fn the_tokenizer_has_exactly_the_vocabulary_and_gives_text_back() {
    let cache = tempfile::tempdir().unwrap();
    for vocab in [259, 300, 4096] {
        let model = ensure(&SyntheticSpec { vocab, ..tiny() }, cache.path()).unwrap();
        let tokenizer = Tokenizer::from_file(model.dir.join("tokenizer.json")).unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), vocab as usize);
        assert_eq!(tokenizer.token_to_id("</s>"), Some(model.geometry.eos_ids[0]));
        let text = "The price of 3 tokens\n\tis 5 €, naïve 日本語";
        let encoding = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text);
        assert!(encoding.get_ids().iter().all(|id| *id < vocab));
        // Without room for merges every byte is a token.
        assert_eq!(encoding.len() < text.len(), vocab > 259, "{}", encoding.len());
        let all: Vec<u32> = (0..vocab).collect();
        assert!(tokenizer.decode(&all, false).is_ok());
    }
}

#[test]
fn problems_name_the_field() {
    assert!(SyntheticSpec::default().problems().is_empty());
    let fields = |spec: SyntheticSpec| spec.problems().iter().map(|problem| problem.field).collect::<Vec<_>>();
    assert_eq!(fields(SyntheticSpec { layers: 0, vocab: 100, heads: 0, ..tiny() }), ["layers", "heads", "vocab"]);
    assert_eq!(fields(SyntheticSpec { heads: 4, kv_heads: 3, ..tiny() }), ["kv_heads"]);
    assert_eq!(fields(SyntheticSpec { hidden: 18, ..tiny() }), ["hidden"]);
    assert_eq!(fields(SyntheticSpec { head_dim: Some(7), ..tiny() }), ["head_dim"]);
    let huge = SyntheticSpec { layers: 512, hidden: 65_536, intermediate: 524_288, ..tiny() };
    assert_eq!(fields(huge.clone()), ["layers"]);
    assert!(matches!(ensure(&huge, Path::new("/nowhere")), Err(SyntheticError::Spec { .. })));
}

#[test]
fn identity_follows_the_content() {
    let default = SyntheticSpec::default();
    assert_eq!(SyntheticSpec { head_dim: Some(32), ..default.clone() }.id(), default.id());
    assert_ne!(
        SyntheticSpec { seed: u64::MAX, ..default.clone() }.id(),
        SyntheticSpec { seed: u64::MAX - 1, ..default.clone() }.id()
    );
    let parsed: SyntheticSpec = serde_json::from_str("{}").unwrap();
    assert_eq!(parsed, default);
    assert!(serde_json::from_str::<SyntheticSpec>(r#"{"layer": 3}"#).unwrap_err().to_string().contains("layers"));
    assert!((4_000_000..10_000_000).contains(&default.geometry().parameters()));
}

//! Headers of safetensors files: well-formed, sharded, and hostile ones.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;

use llem_model::{Checkpoint, SafetensorsError};
use serde_json::{Value, json};

fn write(path: &Path, header: &str, data_bytes: usize) {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data_bytes, 0);
    fs_err::write(path, file).unwrap();
}

fn tensor(dtype: &str, shape: &[u64], begin: u64, end: u64) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]})
}

#[test]
fn a_header_gives_names_types_shapes_and_places() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let header = json!({
        "__metadata__": {"format": "pt"},
        "a": tensor("BF16", &[2, 3], 0, 12),
        "b": tensor("F32", &[4], 12, 28),
    });
    write(&path, &header.to_string(), 28);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!((checkpoint.parameters(), checkpoint.bytes(), checkpoint.dtype()), (10, 28, Some("F32")));
    let stored = &checkpoint.tensors["b"];
    assert_eq!((stored.shape.as_slice(), stored.bytes), (&[4][..], 16));
    assert_eq!(stored.offset, 8 + header.to_string().len() as u64 + 12);
}

#[test]
fn shards_are_read_together() {
    let dir = tempfile::tempdir().unwrap();
    for (file, name) in [("one.safetensors", "a"), ("two.safetensors", "b")] {
        write(&dir.path().join(file), &json!({name: tensor("F16", &[5], 0, 10)}).to_string(), 10);
    }
    let index = dir.path().join("model.safetensors.index.json");
    let mut weight_map = json!({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}});
    fs_err::write(&index, weight_map.to_string()).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().parameters(), 10);

    weight_map["weight_map"]["c"] = json!("two.safetensors");
    fs_err::write(&index, weight_map.to_string()).unwrap();
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("`c`"));
    for outside in ["../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ""] {
        fs_err::write(&index, json!({"weight_map": {"a": outside}}).to_string()).unwrap();
        assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("not a file name"), "{outside}");
    }
}

#[test]
fn damaged_and_hostile_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Checkpoint::open(dir.path()), Err(SafetensorsError::Missing { .. })));
    let path = dir.path().join("model.safetensors");
    let refused = |what: &str| {
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("model.safetensors is damaged"), "{what}: {error}");
    };
    fs_err::write(&path, [1, 2, 3]).unwrap();
    refused("shorter than the length");
    fs_err::write(&path, u64::MAX.to_le_bytes()).unwrap();
    refused("a header of 2^64 bytes");
    fs_err::write(&path, 200_000_000_u64.to_le_bytes()).unwrap();
    refused("a header longer than the file");
    for (what, header, data_bytes) in [
        ("no JSON", "{".to_owned(), 0),
        ("a list", "[]".to_owned(), 0),
        ("nested too deep", "[".repeat(10_000), 0),
        ("truncated data", json!({"a": tensor("F32", &[4], 0, 16)}).to_string(), 15),
        ("surplus data", json!({"a": tensor("F32", &[4], 0, 16)}).to_string(), 17),
        ("backwards", json!({"a": tensor("F32", &[4], 16, 0)}).to_string(), 16),
        ("beyond the end", json!({"a": tensor("F32", &[4], u64::MAX - 16, u64::MAX)}).to_string(), 16),
        ("shape and bytes differ", json!({"a": tensor("F32", &[5], 0, 16)}).to_string(), 16),
        ("overflowing shape", json!({"a": tensor("F32", &[u64::MAX, 2], 0, 16)}).to_string(), 16),
        ("huge shape of an unknown type", json!({"a": tensor("F1", &[u64::MAX], 0, 16)}).to_string(), 16),
        ("overlap", json!({"a": tensor("U8", &[16], 0, 16), "b": tensor("U8", &[16], 0, 16)}).to_string(), 16),
        ("negative", r#"{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}"#.to_owned(), 4),
    ] {
        write(&path, &header, data_bytes);
        refused(what);
    }
}

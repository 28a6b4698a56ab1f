use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use llem::hub::{Hub, HubSettings, HubTimeouts};
use llem::workload::{DatasetManifest, LengthSpec, OrderSpec, TokenizerSource, WorkloadRequest};
use llem_protocol::WorkloadLine;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

pub(crate) const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

/// The id that the test tokenizer puts before every prompt. Then come the bytes, in the alphabet's order.
pub(crate) const BEGIN_ID: u32 = 0;

/// Ids of the test tokenizer: the beginning and 256 bytes.
pub(crate) const VOCABULARY: u32 = 257;

/// A directory with a study folder and a tokenizer, and places for caches.
pub(crate) struct Scene {
    pub(crate) folder: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scene = Self { folder };
        fs_err::create_dir_all(scene.study()).unwrap();
        scene.write("tokenizer.json", byte_tokenizer().to_string());
        scene
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub(crate) fn study(&self) -> PathBuf {
        self.folder.path().join("study")
    }

    /// Settings for an endpoint, with short time-outs and an empty Hugging Face cache.
    pub(crate) fn hub_settings(&self, endpoint: &str) -> HubSettings {
        let mut settings = HubSettings::new(endpoint, self.folder.path().join("hf")).unwrap();
        settings.timeouts = HubTimeouts {
            connect: Duration::from_secs(2),
            idle: Duration::from_millis(400),
            total: Duration::from_millis(1500),
        };
        settings
    }

    pub(crate) fn hub(&self, endpoint: &str) -> Hub {
        Hub::new(self.hub_settings(endpoint))
    }

    pub(crate) fn offline_hub(&self) -> Hub {
        let mut settings = self.hub_settings("http://127.0.0.1:1");
        settings.offline = true;
        Hub::new(settings)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, content).unwrap();
        path
    }

    /// A tokenizer of single bytes that puts a special token before every prompt.
    pub(crate) fn tokenizer(&self) -> TokenizerSource {
        let path = self.folder.path().join("tokenizer.json");
        TokenizerSource { tokenizer_json: Some(path), vocab_size: VOCABULARY, excluded_ids: vec![BEGIN_ID] }
    }
}

/// A request for a data set with everything else simple.
pub(crate) fn request<'a>(dataset: &'a str, base_dir: &'a Path) -> WorkloadRequest<'a> {
    WorkloadRequest {
        dataset,
        n: None,
        input_tokens: None,
        output_tokens: LengthSpec::Exact(4),
        order: OrderSpec::AsGiven,
        seed: 42,
        base_dir,
    }
}

pub(crate) fn read_lines(path: &Path) -> Vec<WorkloadLine> {
    let text = fs_err::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn alphabet() -> Vec<char> {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    alphabet
}

/// The ids of an ASCII text, without the special token. Printable ASCII stands for itself in the alphabet.
pub(crate) fn ascii_ids(text: &str) -> Vec<u32> {
    let alphabet = alphabet();
    let shown = |letter| if letter == ' ' { 'Ġ' } else { letter };
    text.chars().map(|letter| 1 + alphabet.iter().position(|&other| other == shown(letter)).unwrap() as u32).collect()
}

pub(crate) fn byte_tokenizer() -> serde_json::Value {
    let mut vocabulary = serde_json::Map::new();
    vocabulary.insert("<s>".into(), BEGIN_ID.into());
    for (id, letter) in (1_u32..).zip(alphabet()) {
        vocabulary.insert(letter.to_string(), id.into());
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        // Both must be switched off by the reader: a workload is neither cut nor padded behind its back.
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<s>"},
        "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
        },
        "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary,
                  "merges": []}
    })
}

/// The prompts of the data set that the tests publish on their server.
pub(crate) fn prompts() -> Vec<String> {
    (0..10).map(|number| format!("Prompt {number}: {}", "word ".repeat(number).trim())).collect()
}

pub(crate) fn canonical(prompts: &[String]) -> String {
    prompts.iter().map(|prompt| json!({"prompt": prompt.trim()}).to_string() + "\n").collect()
}

pub(crate) fn manifest() -> DatasetManifest {
    DatasetManifest {
        name: "tiny".into(),
        repository: "org/tiny".into(),
        revision: REVISION.into(),
        file: "data/train.parquet".into(),
        column: "text".into(),
        licence: "CC0-1.0".into(),
        prompts: 10,
        default_n: 4,
        sha256: sha256(canonical(&prompts()).as_bytes()),
    }
}

/// A Parquet file of a number column and a text column, in row groups of three.
pub(crate) fn parquet_file(prompts: &[String], column: &str, compression: Compression) -> Vec<u8> {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..).take(prompts.len())));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(prompts));
    let batch = RecordBatch::try_from_iter([("id", numbers), (column, texts)]).unwrap();
    let properties = WriterProperties::builder();
    let properties = properties.set_compression(compression).set_max_row_group_row_count(Some(3)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

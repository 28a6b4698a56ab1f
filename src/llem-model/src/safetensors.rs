//! Headers of safetensors files: what a checkpoint stores, without reading the weights.
//!
//! A file is an 8-byte little-endian length, a JSON header of that length, and the data. Source:
//! <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::bounded;

/// The longest header of a file, as in the format's own reader.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The longest list of shards.
const MAX_INDEX_BYTES: u64 = 64 * 1024 * 1024;
/// Name of the file of an unsharded checkpoint.
pub const SINGLE_FILE: &str = "model.safetensors";
/// Name of the list of shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// Ends of the names that embedding tables have.
const EMBEDDINGS: [&str; 5] =
    ["embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight"];

/// Why the headers of a model directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// There are no safetensors files.
    #[error("{} holds neither {SINGLE_FILE} nor {INDEX_FILE}; other weight formats are not read", dir.display())]
    Missing {
        /// The model directory.
        dir: PathBuf,
    },
    /// A file could not be read.
    #[error("the weights could not be read")]
    Read(#[from] io::Error),
    /// A header or the list of shards is not the JSON that it should be.
    #[error("{} is damaged: it is not valid JSON where it should be", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A file contradicts itself or the format.
    #[error("{} is damaged: {what}; download it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        what: String,
    },
}

/// A tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Data type as the format names it, e.g. `BF16`.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The file.
    pub file: PathBuf,
    /// First byte of the data, counted from the beginning of the file.
    pub offset: u64,
    /// Length of the data in bytes.
    pub bytes: u64,
}

impl StoredTensor {
    /// Number of values.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// What a model directory stores.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Every tensor by name.
    pub tensors: BTreeMap<String, StoredTensor>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Checkpoint {
    /// Reads the header of every safetensors file of a model directory: those that the list of shards names, else the
    /// single file.
    pub fn open(dir: &Path) -> Result<Self, SafetensorsError> {
        let index = dir.join(INDEX_FILE);
        if index.is_file() {
            return Self::open_shards(dir, &index);
        }
        let single = dir.join(SINGLE_FILE);
        if !single.is_file() {
            return Err(SafetensorsError::Missing { dir: dir.to_owned() });
        }
        let mut checkpoint = Self::default();
        checkpoint.add(&single)?;
        Ok(checkpoint)
    }

    fn open_shards(dir: &Path, path: &Path) -> Result<Self, SafetensorsError> {
        let content = bounded::read(path, MAX_INDEX_BYTES)?;
        let index: Index = serde_json::from_slice(&content)
            .map_err(|source| SafetensorsError::Json { path: path.to_owned(), source })?;
        let files: BTreeSet<&String> = index.weight_map.values().collect();
        let mut checkpoint = Self::default();
        for file in files {
            if !is_plain_name(file) {
                return Err(damaged(path, format!("`{file}` is not a file name")));
            }
            checkpoint.add(&dir.join(file))?;
        }
        match index.weight_map.keys().find(|name| !checkpoint.tensors.contains_key(*name)) {
            Some(name) => Err(damaged(path, format!("no shard holds the listed tensor `{name}`"))),
            None => Ok(checkpoint),
        }
    }

    /// Number of stored values; of an unquantised checkpoint the number of parameters.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(StoredTensor::elements).sum()
    }

    /// Rows of the embedding table, where one of the tensors has such a name.
    pub fn embedding_rows(&self) -> Option<u64> {
        let is_table = |name: &str| EMBEDDINGS.iter().any(|end| name.ends_with(end));
        let table = self.tensors.iter().find(|(name, tensor)| tensor.shape.len() == 2 && is_table(name));
        table.map(|(_, tensor)| tensor.shape[0])
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.bytes).sum()
    }

    /// The data type that most of the bytes have.
    pub fn dtype(&self) -> Option<&str> {
        let mut bytes = BTreeMap::<&str, u64>::new();
        for tensor in self.tensors.values() {
            *bytes.entry(&tensor.dtype).or_default() += tensor.bytes;
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(dtype, _)| dtype)
    }

    fn add(&mut self, path: &Path) -> Result<(), SafetensorsError> {
        let (header, data_start, data_bytes) = read_header(path)?;
        let mut stored_bytes = 0_u64;
        for (name, value) in header {
            if name == "__metadata__" {
                continue;
            }
            let tensor = check_entry(path, &name, value, data_start, data_bytes)?;
            stored_bytes = stored_bytes.saturating_add(tensor.bytes);
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(damaged(path, format!("tensor `{name}` is stored in two files")));
            }
        }
        if stored_bytes == data_bytes {
            Ok(())
        } else {
            let what = format!("its header describes {stored_bytes} bytes of data and {data_bytes} follow");
            Err(damaged(path, what))
        }
    }
}

/// The header with the place and length of the data behind it.
fn read_header(path: &Path) -> Result<(BTreeMap<String, Value>, u64, u64), SafetensorsError> {
    let mut file = fs_err::File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let mut length = [0; 8];
    if file_bytes < length.len() as u64 {
        return Err(damaged(path, format!("it has {file_bytes} bytes and a header length needs 8")));
    }
    file.read_exact(&mut length)?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > MAX_HEADER_BYTES || header_bytes > file_bytes - 8 {
        let what = format!("its header should have {header_bytes} bytes, the file has {file_bytes}");
        return Err(damaged(path, what));
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_exact(&mut header)?;
    let header =
        serde_json::from_slice(&header).map_err(|source| SafetensorsError::Json { path: path.to_owned(), source })?;
    Ok((header, 8 + header_bytes, file_bytes - 8 - header_bytes))
}

fn check_entry(
    path: &Path,
    name: &str,
    value: Value,
    data_start: u64,
    data_bytes: u64,
) -> Result<StoredTensor, SafetensorsError> {
    let entry: Entry =
        serde_json::from_value(value).map_err(|source| SafetensorsError::Json { path: path.to_owned(), source })?;
    let [begin, end] = entry.data_offsets;
    if begin > end || end > data_bytes {
        let what = format!("tensor `{name}` lies at bytes {begin} to {end} of {data_bytes}");
        return Err(damaged(path, what));
    }
    if !fits(&entry.dtype, &entry.shape, end - begin) {
        let what = format!(
            "tensor `{name}` of type {} and shape {:?} cannot have {} bytes",
            entry.dtype,
            entry.shape,
            end - begin
        );
        return Err(damaged(path, what));
    }
    Ok(StoredTensor {
        dtype: entry.dtype,
        shape: entry.shape,
        file: path.to_owned(),
        offset: data_start + begin,
        bytes: end - begin,
    })
}

/// Whether a tensor can have that many bytes. No data type has less than one bit, so unknown ones are bounded too.
fn fits(dtype: &str, shape: &[u64], bytes: u64) -> bool {
    let elements = shape.iter().try_fold(1_u64, |product, dimension| product.checked_mul(*dimension));
    match (elements, bits(dtype)) {
        (None, _) => false,
        (Some(elements), None) => elements / 8 <= bytes,
        (Some(elements), Some(bits)) => elements.checked_mul(bits / 8) == Some(bytes),
    }
}

/// Bits of one value of the format's common data types.
fn bits(dtype: &str) -> Option<u64> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(8),
        "U16" | "I16" | "F16" | "BF16" => Some(16),
        "U32" | "I32" | "F32" => Some(32),
        "U64" | "I64" | "F64" => Some(64),
        _ => None,
    }
}

/// Whether a listed shard is a name in the directory itself, not a path out of it.
fn is_plain_name(file: &str) -> bool {
    let mut components = Path::new(file).components();
    matches!(components.next(), Some(Component::Normal(name)) if name.to_str() == Some(file))
        && components.next().is_none()
}

fn damaged(path: &Path, what: String) -> SafetensorsError {
    SafetensorsError::Damaged { path: path.to_owned(), what }
}

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use llem_model::{Checkpoint, Geometry, StoredTensor, TensorShape};

use crate::error::DriverError;

/// The tensors of a model by name, as the forward pass takes them.
pub(crate) struct Weights(HashMap<String, Tensor>);

impl Weights {
    /// Reads every tensor that the geometry leads to, checks its shape and converts it to `dtype`. `progress` is told
    /// the bytes read and the bytes in total after each tensor.
    pub(crate) fn read(
        geometry: &Geometry,
        checkpoint: &Checkpoint,
        dtype: DType,
        mut progress: impl FnMut(u64, u64) -> Result<(), DriverError>,
    ) -> Result<Self, DriverError> {
        let (mut files, mut tensors, mut done_bytes) = (BTreeMap::new(), HashMap::new(), 0);
        for expected in geometry.tensors() {
            let stored = find(checkpoint, &expected)?;
            let tensor = read_tensor(&mut files, &expected, stored)?.to_dtype(dtype)?;
            tensors.insert(expected.name, tensor);
            done_bytes += stored.bytes;
            progress(done_bytes, checkpoint.bytes())?;
        }
        Ok(Self(tensors))
    }

    /// Takes a tensor out.
    pub(crate) fn take(&mut self, name: &str) -> Result<Tensor, DriverError> {
        self.take_optional(name).ok_or_else(|| DriverError::Mismatch(format!("the model has no tensor `{name}`")))
    }

    /// Takes a tensor out that only some models have.
    pub(crate) fn take_optional(&mut self, name: &str) -> Option<Tensor> {
        self.0.remove(name)
    }
}

fn find<'a>(checkpoint: &'a Checkpoint, expected: &TensorShape) -> Result<&'a StoredTensor, DriverError> {
    let TensorShape { name, shape } = expected;
    let Some(stored) = checkpoint.tensors.get(name) else {
        return Err(DriverError::Mismatch(format!(
            "config.json leads to tensor `{name}`, which no safetensors file holds"
        )));
    };
    if stored.shape.iter().copied().eq(shape.iter().map(|dimension| *dimension as u64)) {
        return Ok(stored);
    }
    let file = stored.file.display();
    let text = format!("tensor `{name}` has shape {:?} in {file}, config.json leads to {shape:?}", stored.shape);
    Err(DriverError::Mismatch(text))
}

fn read_tensor(
    files: &mut BTreeMap<PathBuf, fs_err::File>,
    expected: &TensorShape,
    stored: &StoredTensor,
) -> Result<Tensor, DriverError> {
    let dtype = stored_dtype(&stored.dtype)?;
    if !files.contains_key(&stored.file) {
        files.insert(stored.file.clone(), fs_err::File::open(&stored.file)?);
    }
    let mut data = vec![0; stored.bytes as usize];
    if let Some(file) = files.get_mut(&stored.file) {
        file.seek(SeekFrom::Start(stored.offset))?;
        file.read_exact(&mut data)?;
    }
    Ok(Tensor::from_raw_buffer(&data, dtype, &expected.shape, &Device::Cpu)?)
}

/// The data type of a stored tensor, if this backend computes with such weights.
pub(crate) fn stored_dtype(name: &str) -> Result<DType, DriverError> {
    match name {
        "F32" => Ok(DType::F32),
        "F16" => Ok(DType::F16),
        "BF16" => Ok(DType::BF16),
        other => Err(DriverError::Unsupported(format!(
            "the checkpoint stores weights of type {other}; the candle backend reads F32, F16 and BF16"
        ))),
    }
}

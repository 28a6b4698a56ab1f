use std::num::NonZero;
use std::thread;

use candle_core::DType;
use llem_protocol::EngineSpec;
use serde_json::{Map, Value, json};

use crate::error::DriverError;
use crate::sampling::Sampling;

/// The most threads that are started.
const MAX_THREADS: u64 = 1024;
/// Requests in a batch at most; far above what a processor makes use of.
const MAX_BATCH: u64 = 65_536;

/// What an [`EngineSpec`] asks of this backend, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Requests that are generated together.
    pub(crate) batch_size: usize,
    /// Threads that compute.
    pub(crate) threads: usize,
    /// Data type of weights and activations; `None` takes the checkpoint's.
    pub(crate) dtype: Option<DType>,
    /// How tokens are chosen.
    pub(crate) sampling: Sampling,
    /// Seed of the choice.
    pub(crate) seed: u64,
}

impl Settings {
    /// Checks every setting; unknown ones are refused by name.
    pub(crate) fn new(engine: &EngineSpec) -> Result<Self, DriverError> {
        if engine.backend != "candle" {
            return Err(DriverError::Settings(format!("this driver is of backend `candle`, not `{}`", engine.backend)));
        }
        if engine.lora.is_some() {
            let text = "the candle backend does not load LoRA adapters; merge the adapter into the model first";
            return Err(DriverError::Unsupported(text.to_owned()));
        }
        refuse_unknown("candle", &engine.options, &["batch_size", "threads"])?;
        refuse_unknown("candle.extra", &engine.extra, &[])?;
        Ok(Self {
            batch_size: count(&engine.options, "batch_size", MAX_BATCH)?.unwrap_or(1),
            threads: count(&engine.options, "threads", MAX_THREADS)?.unwrap_or_else(available_threads),
            dtype: dtype(&engine.dtype)?,
            sampling: Sampling::new(&engine.sampling)?,
            seed: seed(&engine.random_seed)?,
        })
    }

    /// The settings in effect, for the result.
    pub(crate) fn report(&self, dtype: DType) -> Map<String, Value> {
        // candle has no bfloat16 matrix product on processors: it widens both sides to float32 for each one.
        let matmul = if dtype == DType::BF16 { DType::F32 } else { dtype };
        let report = [
            ("batch_size", json!(self.batch_size)),
            ("threads", json!(self.threads)),
            ("dtype", json!(dtype_name(dtype))),
            ("matmul_dtype", json!(dtype_name(matmul))),
        ];
        report.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Makes rayon and candle use the asked number of threads, this one included. To be called once, before the first
    /// computation.
    pub(crate) fn start_threads(&self) -> Result<(), DriverError> {
        // SAFETY: the environment must not be read by another thread meanwhile. The driver starts no thread before this
        // call, and is called here once. candle offers no other way: it reads this variable at every matrix product.
        #[expect(unsafe_code, reason = "candle takes its number of threads from the environment alone")]
        unsafe {
            std::env::set_var("RAYON_NUM_THREADS", self.threads.to_string());
        }
        rayon::ThreadPoolBuilder::new().num_threads(self.threads).use_current_thread().build_global()?;
        Ok(())
    }
}

/// The name of a data type in llem's files.
pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        other => other.as_str(),
    }
}

fn dtype(name: &str) -> Result<Option<DType>, DriverError> {
    match name {
        "auto" => Ok(None),
        "float32" => Ok(Some(DType::F32)),
        "float16" => Ok(Some(DType::F16)),
        "bfloat16" => Ok(Some(DType::BF16)),
        other => Err(DriverError::Unsupported(format!(
            "the candle backend does not compute in dtype `{other}` (known: auto, float32, bfloat16, float16)"
        ))),
    }
}

fn count(options: &Map<String, Value>, key: &str, most: u64) -> Result<Option<usize>, DriverError> {
    match options.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) if (1..=most).contains(&number) => Ok(Some(number as usize)),
            _ => Err(DriverError::Settings(format!(
                "`candle.{key}` is {value}; it must be a whole number from 1 to {most}"
            ))),
        },
    }
}

/// Refuses keys that would have no effect.
pub(crate) fn refuse_unknown(section: &str, given: &Map<String, Value>, known: &[&str]) -> Result<(), DriverError> {
    let Some(key) = given.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(DriverError::Settings(format!("`{section}.{key}` is not a setting of this backend (known: {known})")))
}

fn seed(text: &str) -> Result<u64, DriverError> {
    text.parse()
        .map_err(|_| DriverError::Settings(format!("`random_seed` is `{text}`; it must be a whole number below 2^64")))
}

/// Threads that this process may use, by its CPU mask and its control group.
fn available_threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

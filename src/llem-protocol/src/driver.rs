use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Device, EngineSpec, FailureClass, Stretch};

/// What the agent asks of a driver, one line on its stdin. Each is answered before the next is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Load the model and read the workload. Answer: [`Message::Loaded`].
    Load {
        /// What to load.
        engine: Box<EngineSpec>,
        /// File of [`crate::WorkloadLine`]s.
        workload: PathBuf,
        /// Whether the end-of-sequence token is ignored.
        ignore_eos: bool,
    },
    /// Run the whole workload once, synchronise the devices, answer [`Message::PassDone`]. Records stay in memory.
    Pass {
        /// Number of the pass, counted over warm-up and window.
        pass: u32,
        /// Whether records are kept; warm-up passes keep none.
        record: bool,
        /// Whether every request stops after its first token.
        #[serde(default)]
        prefill_only: bool,
    },
    /// Send the kept records as [`Message::Record`]s, then [`Message::RecordsDone`].
    Records,
    /// Leave. Answer: exit with status 0.
    Shutdown,
}

/// What a driver says, one line on the stdout that it was started with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    /// First, unasked: the engine is imported.
    Hello {
        /// [`crate::PROTOCOL_VERSION`] of the driver.
        protocol_version: u32,
        /// Engine name, e.g. `pytorch`.
        engine: String,
        /// Engine version as it reports itself.
        engine_version: String,
        /// Versions of what the engine stands on (`cuda`, `cudnn`, `transformers`, …).
        #[serde(default)]
        libraries: BTreeMap<String, String>,
        /// Every package of the engine's own package manager with its version, e.g. Python's distributions.
        #[serde(default)]
        packages: BTreeMap<String, String>,
    },
    /// Still working on the last request; resets no time-out.
    Progress {
        /// Units done.
        done: f64,
        /// Units in total, when known.
        #[serde(default)]
        total: Option<f64>,
        /// `bytes`, `requests`, `layers`.
        unit: String,
    },
    /// The model is on its devices and the workload has been read.
    Loaded {
        /// Number of parameters, when the engine knows it.
        #[serde(default)]
        parameters: Option<u64>,
        /// Data type of the weights as loaded.
        dtype: String,
        /// Where the model is, by the engine's own account.
        devices: Vec<Device>,
        /// Settings in effect after the engine's own defaults.
        #[serde(default)]
        settings: Map<String, Value>,
        /// Requests read from the workload.
        requests: u64,
        /// Stretches of the load in which the engine built or compiled something, in order and not overlapping.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compile: Option<Vec<Stretch>>,
    },
    /// A pass is done and the devices are idle.
    PassDone {
        /// Number of the pass.
        pass: u32,
        /// When the first request was handed to the engine.
        start_ns: u64,
        /// When all work was done and the devices were synchronised.
        end_ns: u64,
        /// Prompt tokens processed, without padding.
        prompt_tokens: u64,
        /// Tokens generated for requests, without padding and without what follows a request's end.
        output_tokens: u64,
    },
    /// One kept record.
    Record {
        /// The record.
        record: RequestRecord,
    },
    /// All kept records have been sent and forgotten.
    RecordsDone {
        /// How many were sent.
        records: u64,
        /// Peak memory of the engine on its devices in bytes, when it knows it.
        #[serde(default)]
        peak_memory_bytes: Option<u64>,
    },
    /// The driver gives up and exits with a status other than 0.
    Error {
        /// The class, when the driver knows it; else the agent looks for signatures.
        #[serde(default)]
        class: Option<FailureClass>,
        /// Type of the exception, e.g. `torch.OutOfMemoryError`.
        kind: String,
        /// Its message.
        text: String,
        /// Messages of the causes, outermost first.
        #[serde(default)]
        causes: Vec<String>,
    },
}

/// What one request experienced in one pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRecord {
    /// Number of the pass.
    pub pass: u32,
    /// [`crate::WorkloadLine::index`].
    pub index: u64,
    /// Which batch of the pass it was in, for engines with static batches.
    #[serde(default)]
    pub batch: Option<u32>,
    /// Tokens of the prompt, without padding.
    pub prompt_tokens: u32,
    /// When the request was handed to the engine.
    pub submit_ns: u64,
    /// When each generated token was there, in order. As many as tokens were generated.
    pub token_ns: Vec<u64>,
    /// The generated token ids, in order. As many as `token_ns`.
    pub output_ids: Vec<u32>,
}

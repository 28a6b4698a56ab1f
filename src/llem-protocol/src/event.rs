use serde::{Deserialize, Serialize};

use crate::{Device, Failure, MAX_LINE_BYTES, Phase, Reason};

/// One line that the agent writes to its stdout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 0 without gaps, so that a reader who comes late knows what it missed.
    pub seq: u64,
    /// When it happened.
    pub t_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// How loud a [`EventBody::Log`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For `-v`.
    Debug,
    /// Worth a line in the agent's log.
    Info,
    /// The user should read it.
    Warn,
}

/// What happened in the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventBody {
    /// The first event: the agent is alive, has read its job and sees the results volume.
    Hello {
        /// The agent's [`crate::PROTOCOL_VERSION`].
        protocol_version: u32,
        /// The agent's package version.
        agent_version: String,
        /// [`crate::Job::run_id`].
        run_id: String,
        /// Process id inside the container.
        pid: u32,
        /// Wall clock at `t_ns`, nanoseconds since 1970 in UTC.
        realtime_ns: u64,
    },
    /// A phase began.
    PhaseStarted {
        /// Which.
        phase: Phase,
        /// Seconds until it is given up, if limited.
        timeout_s: Option<f64>,
    },
    /// Something inside a phase moved on.
    Progress {
        /// Which.
        phase: Phase,
        /// Units done.
        done: f64,
        /// Units in total, when known.
        total: Option<f64>,
        /// `passes`, `seconds`, `bytes`, `requests`.
        unit: String,
    },
    /// A phase ended well.
    PhaseFinished {
        /// Which.
        phase: Phase,
        /// How long it took.
        seconds: f64,
    },
    /// The driver is up and has imported its engine.
    EngineReady {
        /// Engine name, e.g. `vllm`.
        engine: String,
        /// Engine version as it reports itself.
        engine_version: String,
    },
    /// The model is on its devices.
    ModelLoaded {
        /// Number of parameters, when the engine knows it.
        parameters: Option<u64>,
        /// Where the model is, by the engine's own account.
        devices: Vec<Device>,
    },
    /// Something that lowers what the run is worth.
    Warning {
        /// The code with its numbers.
        reason: Reason,
    },
    /// A line for the log.
    Log {
        /// How loud.
        level: LogLevel,
        /// Free text.
        text: String,
    },
    /// The last event of a failed run.
    Failed {
        /// What, where, and what to do.
        failure: Failure,
    },
    /// All files are on the results volume; the last event of a good run.
    Done {
        /// SHA-256 of the report file, hexadecimal.
        report_sha256: String,
    },
}

/// Reads one line of the agent's stdout. `None` when the line is not an event: engines and images print there too.
pub fn decode_event(line: &[u8]) -> Option<Event> {
    let text = line.trim_ascii();
    if text.first() != Some(&b'{') || text.len() > MAX_LINE_BYTES {
        return None;
    }
    serde_json::from_slice(text).ok()
}

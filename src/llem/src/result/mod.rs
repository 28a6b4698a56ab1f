//! Results: what a run gave, what a study gave, and the files that hold both.
//!
//! ```text
//! {name}_{UTC}/
//!   study.yaml            copy of the file that was run
//!   journal.jsonl         one line per change of state, append-only
//!   study.json            StudyResult
//!   experiments.parquet   one row per experiment
//!   runs/{NNN}-{experiment_id}-c{cycle}/
//!     job.json            what the agent was given
//!     result.json         RunResult
//!     requests.parquet    one row per request and pass of the window
//!     timeseries.parquet  one row per power sample
//!     agent.log           what the agent wrote beside its events
//!     driver.log          what the engine wrote
//! ```

mod collect;
mod journal;
mod metrics;
mod parquet;
mod record;
mod store;
mod summary;

pub use collect::{Collected, collect};
pub use journal::{Journal, JournalEvent};
pub use metrics::{EnergyFigures, Metrics, RunMetricsError, run_metrics};
pub use record::{
    ExperimentResult, ExperimentSummary, ModelIdentity, RunResult, RunRow, RunStatus, StudyResult, StudyStatus,
    WorkloadIdentity,
};
pub use store::{RunDirectory, StoreError, StudyDirectory};
pub use summary::{Distribution, Spread};

/// Version of `result.json`, `study.json`, `journal.jsonl` and the Parquet files. `job.json` has its own.
pub const SCHEMA_VERSION: u32 = 1;

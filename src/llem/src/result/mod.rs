//! Results: what a run gave, what a study gave, and the files that hold both.
//!
//! ```text
//! {name}_{UTC}/
//!   study.yaml            copy of the file that was run
//!   design.json           what it means: every experiment complete with defaults; a study that was extended has design-2.json, …
//!   journal.jsonl         one line per change of state, append-only
//!   study.json            StudyResult
//!   experiments.parquet   one row per experiment
//!   runs.parquet          one row per run
//!   runs/{NNN}-{experiment_id}-c{cycle}/      …-r2 for a second attempt
//!     job.json            what the agent was given
//!     result.json         RunResult
//!     requests.parquet    one row per request and pass of the window
//!     timeseries.parquet  one row per power sample
//!     agent.log           what the agent wrote beside its events
//!     driver.log          what the engine wrote
//! ```

mod asked;
mod collect;
mod design;
mod energy;
mod figure;
mod flops;
mod history;
mod identity;
mod journal;
mod metrics;
mod pareto;
mod parquet;
mod plausible;
mod record;
mod run_directory;
mod run_id;
mod same_work;
mod split;
mod store;
mod study_files;
mod study_record;
mod summary;
mod uncertainty;
mod upgrade;

pub use asked::{Asked, WorkMismatch, check_work};
pub(crate) use collect::read_left;
pub use collect::{Collected, collect};
pub use design::{Design, DesignedExperiment, NumberedRuns, number_runs};
pub(crate) use energy::co2_g;
pub use energy::{
    DomainEnergy, EnergyContext, EnergyFigures, PhaseEnergy, calibration_of, phase_energy,
    unmatched as unmatched_calibrations,
};
pub use figure::Figure;
pub use flops::FlopsReference;
pub use history::{EarlierRun, earlier_runs};
pub use identity::{GpuIdentity, RunIdentity};
pub use journal::{Journal, JournalEvent, Reading, StopCause, read_journal};
pub use llem_model::ParametersSource;
pub use metrics::{Metrics, RunMetricsError, run_metrics};
pub use pareto::{ExperimentStanding, Objective, ParetoFrontier};
pub use record::{ModelIdentity, RunResult, RunStatus, WeightsIdentity, WorkloadIdentity};
pub use run_directory::RunDirectory;
pub use run_id::{NotARunId, RunId};
pub use same_work::{
    COMPARED_TOKENS, LengthDifference, Output, OutputComparison, RunWork, SameWork, SameWorkLedger, Variant,
};
pub use split::{PrefillDecodeEnergy, SplitMethod};
pub use store::{FileIdentity, StoreError, StudyDirectory};
pub use study_files::StudyFiles;
pub use study_record::{
    ExperimentResult, ExperimentSummary, ImageRecord, RunRow, SkippedCycles, StudyResult, StudyStatus,
};
pub use summary::{Distribution, Spread};
pub use uncertainty::{COVERAGE_FACTOR, GAIN_BOUND, MeanUncertainty, UncertaintyBudget};
pub use upgrade::RecordError;

/// Version of `result.json`, `study.json`, `journal.jsonl` and the Parquet files. `job.json` has its own. Older ones are read by
/// [`RunResult::from_json`] and [`StudyResult::from_json`].
pub const SCHEMA_VERSION: u32 = 2;

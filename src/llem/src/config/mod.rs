//! Studies and experiments as the user writes them.
//!
//! ```text
//! text ─► document ─► source ────► check ──────► sweep ─────► rules ──────► StudyConfig
//!         places      with --set   the schema    every point   cross-field
//! ```
//!
//! All problems are collected: what the schema refuses is reported and taken out, and the rest goes on. Every message
//! has the place in the file that it is about. Defaults come from [`Profile`], under the file, under `--set`.

mod assign;
mod backend;
mod bundled;
mod check;
mod defaults;
mod document;
mod energy;
mod environment;
mod execution;
mod experiment;
mod identity;
mod image;
mod model;
mod place;
mod problem;
mod reader;
mod rules;
mod scalar;
mod schema;
mod slurm;
mod source;
mod starter;
mod study;
mod user;
mod wording;
mod workload;

pub use backend::*;
pub use bundled::{BundleOrigin, Bundled, BundledWeights};
pub use defaults::Profile;
pub use energy::{Calibration, Carbon};
pub use environment::{VARIABLES, Variable, environment_help};
pub use execution::{CycleOrder, ExecutionConfig, MOST_CYCLES};
pub use experiment::{ExperimentConfig, MeasurementConfig, SamplingConfig};
pub use image::{is_path as is_image_path, problem as image_reference_problem};
pub use model::{Dtype, LoraConfig, ModelSource, ModelSpec, SyntheticModel};
pub use problem::{ConfigError, Location, Problem};
pub use schema::{study_schema, user_schema};
pub use slurm::{NodeRunner, SlurmConfig};
pub use starter::starter;
pub use study::{Experiment, MergedPoint, StudyConfig, StudySource};
pub(crate) use user::TOKEN_VARIABLES;
pub use user::{CpuConfig, GpuAccess, GpuConfig, Mount, RunnerKind, UserConfig, WhenBusy};
pub use workload::{
    AIENERGYSCORE_DATASET, AIENERGYSCORE_PROMPTS, DEFAULT_INPUT_TOKENS, Length, LengthRange, Order, SYNTHETIC_DATASET,
    WorkloadConfig,
};

pub(crate) use assign::{get, pointer_of, set};
pub(crate) use check::{Finding, check};
pub(crate) use document::{Side, dotted};
pub(crate) use identity::canonical_sha256;
pub(crate) use model::{study_path, weights_source};
pub(crate) use rules::{Surroundings, experiment as experiment_rules, sections as section_rules, tensorrt_checkpoint};
pub(crate) use schema::STUDY as STUDY_SCHEMA;
pub(crate) use source::Source;
pub(crate) use wording::{compact, key as shown_key, nearest};

//! Model directories on disk: the geometry of a model, the headers of its weights, and synthetic models.
//!
//! ```text
//! config.json ──────► ModelConfig: what the file of any model says
//! config.json ──────► Geometry ──► parameters, expected tensors, rotary frequencies of the architectures that llem computes itself
//! *.safetensors ────► Checkpoint ► names, data types, shapes and places of the stored tensors
//! SyntheticSpec ────► ensure() ──► a Hugging Face style directory with random weights
//! ```
//!
//! Everything read here is untrusted: sizes are bounded before memory is taken, numbers are checked before they are used.

mod bounded;
mod config;
mod geometry;
mod model_config;
mod parameters;
pub mod safetensors;
pub mod synthetic;

pub use config::GeometryError;
pub use geometry::{Architecture, Geometry, RopeScaling, TensorShape};
pub use model_config::ModelConfig;
pub use parameters::{Parameters, ParametersSource};
pub use safetensors::{Checkpoint, SafetensorsError, StoredTensor};
pub use synthetic::{SyntheticError, SyntheticModel, SyntheticSpec, ensure, find};

//! Model directories on disk: the geometry of a model, the headers of its weights, and synthetic models.
//!
//! ```text
//! config.json ──────► Geometry ──► parameters, expected tensors, rotary frequencies
//! *.safetensors ────► Checkpoint ► names, data types, shapes and places of the stored tensors
//! SyntheticSpec ────► ensure() ──► a Hugging Face style directory with random weights
//! ```
//!
//! Everything read here is untrusted: sizes are bounded before memory is taken, numbers are checked before they are used.

mod bounded;
mod config;
mod geometry;
pub mod safetensors;
pub mod synthetic;

pub use config::GeometryError;
pub use geometry::{Architecture, Geometry, RopeScaling, TensorShape};
pub use safetensors::{Checkpoint, SafetensorsError, StoredTensor};
pub use synthetic::{SyntheticError, SyntheticModel, SyntheticSpec, ensure, find};

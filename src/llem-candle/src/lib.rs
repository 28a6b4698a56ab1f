//! Driver of the embedded backend: Llama and Qwen2 generation on the processor, over candle, without Python.
//!
//! ```text
//! stdin ► channel ► driver ─┬─ settings   options, sampling, threads
//!                           ├─ workload   requests, checked against the model
//!                           ├─ weights ─► model     the forward pass
//!                           └─ generate   static batches, one stamp a token
//! stdout ◄ channel ◄────────┘
//! ```

mod channel;
mod driver;
mod error;
mod generate;
mod model;
mod sampling;
mod settings;
mod system;
mod weights;
mod workload;

pub use channel::Channel;
pub use driver::run;
pub use error::DriverError;

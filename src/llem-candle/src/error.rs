use std::error::Error;
use std::io;

use llem_model::{GeometryError, SafetensorsError};
use llem_protocol::{FailureClass, Message};

/// Why the driver gives up.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A setting is unknown or has a value that cannot be.
    #[error("{0}")]
    Settings(String),
    /// A setting is known, but this backend cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// A request does not fit the model.
    #[error("{0}")]
    Request(String),
    /// The workload file is not what it should be.
    #[error("{0}")]
    Workload(String),
    /// The agent sent something else than the protocol allows.
    #[error("{0}")]
    Protocol(String),
    /// The model's configuration cannot be used.
    #[error("the model cannot be loaded")]
    Geometry(#[from] GeometryError),
    /// The model's weights cannot be used.
    #[error("the model cannot be loaded")]
    Weights(#[from] SafetensorsError),
    /// The model is not a local directory.
    #[error("{0}")]
    ModelMissing(String),
    /// Weights and configuration of the model contradict each other.
    #[error("{0}")]
    Mismatch(String),
    /// A logit is infinite or not a number.
    #[error("the model computed a logit that is not a finite number; use `dtype: float32`")]
    NotFinite,
    /// candle refused an operation.
    #[error("candle could not compute")]
    Candle(#[from] candle_core::Error),
    /// The pool of threads could not be made.
    #[error("the threads could not be started")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The channel to the agent or a system file could not be used.
    #[error("reading or writing failed")]
    Io(#[from] io::Error),
}

impl DriverError {
    /// The class, where the driver knows it.
    pub fn class(&self) -> Option<FailureClass> {
        Some(match self {
            Self::Settings(_) | Self::Request(_) => FailureClass::InvalidConfig,
            Self::Unsupported(_) | Self::Geometry(GeometryError::Unsupported { .. }) => FailureClass::Unsupported,
            Self::Workload(_) => FailureClass::WorkloadCorrupt,
            Self::Protocol(_) => FailureClass::Protocol,
            Self::Geometry(GeometryError::Architecture { .. }) | Self::Mismatch(_) => {
                FailureClass::UnsupportedArchitecture
            }
            Self::Geometry(_) | Self::Weights(_) | Self::ModelMissing(_) => FailureClass::ModelMissing,
            Self::NotFinite | Self::Candle(_) | Self::Threads(_) | Self::Io(_) => return None,
        })
    }

    /// The last message of a driver.
    pub fn to_message(&self) -> Message {
        let debug = format!("{self:?}");
        let variant = debug.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default();
        let kind = format!("llem_candle::{variant}");
        let causes = std::iter::successors(self.source(), |cause| (*cause).source()).map(ToString::to_string).collect();
        Message::Error { class: self.class(), kind, text: self.to_string(), causes }
    }
}

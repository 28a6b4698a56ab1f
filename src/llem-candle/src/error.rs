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
    #[error("the model's configuration cannot be used")]
    Geometry(#[from] GeometryError),
    /// The model's weights cannot be used.
    #[error("{}", weights_text(.0))]
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

/// Tells a damaged file, which is to be replaced, from one that is not there or may not be read.
fn weights_text(error: &SafetensorsError) -> &'static str {
    match error {
        SafetensorsError::Json { .. } | SafetensorsError::Damaged { .. } => "the model's weights are damaged",
        SafetensorsError::Missing { .. } | SafetensorsError::Read(_) => "the model's weights cannot be read",
    }
}

impl DriverError {
    /// The class, where the driver knows it.
    pub fn class(&self) -> Option<FailureClass> {
        Some(match self {
            Self::Settings(_) | Self::Request(_) => FailureClass::InvalidConfig,
            Self::Unsupported(_) | Self::Geometry(GeometryError::Unsupported { .. }) => FailureClass::Unsupported,
            Self::Workload(_) => FailureClass::WorkloadCorrupt,
            Self::Protocol(_) => FailureClass::Protocol,
            Self::Geometry(GeometryError::Architecture { .. } | GeometryError::Contradiction { .. })
            | Self::Mismatch(_) => FailureClass::UnsupportedArchitecture,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_weights_are_told_from_absent_ones() {
        let file = || "/models/tiny/model.safetensors".into();
        let said = |error: SafetensorsError| {
            let Message::Error { class, text, causes, .. } = DriverError::from(error).to_message() else {
                panic!("no error message");
            };
            assert_eq!(class, Some(FailureClass::ModelMissing));
            assert!(causes.concat().contains("/models/tiny"), "{causes:?}");
            text
        };
        let json = serde_json::from_str::<u8>("{").unwrap_err();
        let damaged = "the model's weights are damaged";
        assert_eq!(said(SafetensorsError::Damaged { path: file(), what: "it is cut off".to_owned() }), damaged);
        assert_eq!(said(SafetensorsError::Json { path: file(), source: json }), damaged);
        assert_eq!(said(SafetensorsError::Missing { dir: file() }), "the model's weights cannot be read");
    }
}

//! Why a run stops before its end.

use llem_protocol::FailureClass;

/// A class with its particulars. Phase and log tail are added where the failure is recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {message}")]
pub(crate) struct Fault {
    /// The class.
    pub(crate) class: FailureClass,
    /// One or two sentences with numbers and names.
    pub(crate) message: String,
}

impl Fault {
    /// A fault of a class.
    pub(crate) fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    /// The driver broke the protocol.
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Protocol, message)
    }
}

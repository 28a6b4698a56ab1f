//! The embedded engine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Extra;

/// Settings of the embedded backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CandleConfig {
    /// Image to run in; absent: the one made from this machine's own binaries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Requests generated together; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub batch_size: Option<u32>,
    /// Threads of the arithmetic; absent: all that the container may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_096))]
    pub threads: Option<u32>,
    /// Passed to the engine verbatim.
    #[serde(skip_serializing_if = "Extra::is_empty")]
    pub extra: Extra,
}

//! The embedded engine. It has no `extra`: llem knows all of its settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    #[schemars(range(min = 1, max = 1_024))]
    pub threads: Option<u32>,
}

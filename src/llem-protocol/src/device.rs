use serde::{Deserialize, Serialize};

/// What kind of device an engine computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The host's processor.
    Cpu,
    /// A graphics processor.
    Gpu,
}

/// A device as the engine itself names it: the proof of where the model really is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Processor or graphics processor.
    pub kind: DeviceKind,
    /// `GPU-…` for a graphics processor; absent for a processor.
    #[serde(default)]
    pub uuid: Option<String>,
    /// Product name, as the engine or the system gives it.
    #[serde(default)]
    pub name: Option<String>,
}

/// What `llem-agent --gpus` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisibleGpus {
    /// UUIDs of the GPUs that are visible.
    pub uuids: Vec<String>,
    /// Why NVML does not say; absent when it does.
    pub problem: Option<String>,
}

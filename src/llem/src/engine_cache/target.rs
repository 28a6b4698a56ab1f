//! What an engine is compiled for.

use serde::Serialize;

/// What an engine is compiled for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Graphics processors, one for each rank: all of them alike.
    Gpus(Vec<GpuTarget>),
    /// The processor of the machine.
    Cpu(CpuTarget),
}

/// A graphics processor as a compiler sees it. All four must be known: boards of one compute capability differ, and so do parts of one
/// board.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GpuTarget {
    /// Product name.
    pub name: Option<String>,
    /// Compute capability, e.g. `9.0`.
    pub compute_capability: Option<String>,
    /// CUDA cores: streaming multiprocessors times what a compute capability has in each.
    pub cuda_cores: Option<u32>,
    /// Its memory in bytes. Libraries disagree about it by some megabytes: take it from the same one each time.
    pub memory_bytes: Option<u64>,
}

/// A processor as a compiler sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CpuTarget {
    /// Model name.
    pub model: Option<String>,
    /// Instruction sets, sorted, with spaces between them: code is generated for exactly these.
    pub instruction_sets: Option<String>,
    /// Processors that the engine may use: generated code divides its loops by their number.
    pub processors: Option<u32>,
}

impl Target {
    /// The processor of this machine; `processors` is how many the engine may use.
    pub fn this_cpu(processors: Option<u32>) -> Self {
        let cpuinfo = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = crate::host::HostSnapshot::read().cpu_model;
        Self::Cpu(CpuTarget { model, instruction_sets: instruction_sets(&cpuinfo), processors })
    }

    /// What must be known of it, and whether it is.
    pub(super) fn checks(&self) -> Vec<(&'static str, bool)> {
        match self {
            Self::Gpus(gpus) => vec![
                ("target.gpus", !gpus.is_empty()),
                ("target.gpus.name", gpus.iter().all(|gpu| gpu.name.is_some())),
                ("target.gpus.compute_capability", gpus.iter().all(|gpu| gpu.compute_capability.is_some())),
                ("target.gpus.cuda_cores", gpus.iter().all(|gpu| gpu.cuda_cores.is_some())),
                ("target.gpus.memory_bytes", gpus.iter().all(|gpu| gpu.memory_bytes.is_some())),
                // CUDA numbers the GPUs of a process as it likes: where they differ, nobody knows which rank gets which.
                ("target.gpus.order", gpus.windows(2).all(|pair| matches!(pair, [a, b] if a == b))),
            ],
            // Arm processors have no model name in /proc/cpuinfo.
            Self::Cpu(cpu) => vec![
                ("target.cpu.instruction_sets", cpu.instruction_sets.is_some()),
                ("target.cpu.processors", cpu.processors.is_some()),
            ],
        }
    }
}

/// Sorted, so that a kernel that lists them in another order means the same processor.
fn instruction_sets(cpuinfo: &str) -> Option<String> {
    let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let (_, sets) = lines.find(|(name, _)| matches!(name.trim(), "flags" | "Features"))?;
    let mut sets: Vec<&str> = sets.split_whitespace().collect();
    sets.sort_unstable();
    Some(sets.join(" "))
}

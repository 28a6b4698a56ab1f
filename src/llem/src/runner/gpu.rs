//! The graphics processors of this machine, as the kernel driver lists them.

use std::path::Path;

/// One graphics processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// `GPU-…`.
    pub uuid: String,
    /// Number of its device node `/dev/nvidiaN`.
    pub minor: u32,
}

/// Reads `/proc/driver/nvidia/gpus/*/information`; empty without an NVIDIA driver.
pub fn host_gpus() -> Vec<Gpu> {
    gpus_in(Path::new("/proc/driver/nvidia/gpus"))
}

fn gpus_in(root: &Path) -> Vec<Gpu> {
    let Ok(entries) = fs_err::read_dir(root) else { return Vec::new() };
    let mut gpus: Vec<Gpu> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| fs_err::read_to_string(entry.path().join("information")).ok())
        .filter_map(|text| parse_information(&text))
        .collect();
    gpus.sort_by_key(|gpu| gpu.minor);
    gpus
}

fn parse_information(text: &str) -> Option<Gpu> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':').map(|v| v.trim().to_owned()))
    };
    Some(Gpu { uuid: field("GPU UUID")?, minor: field("Device Minor")?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::{Gpu, gpus_in, parse_information};

    const INFORMATION: &str = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 78\nGPU UUID: \t GPU-1b2c\nVideo BIOS: \t 96.00\nDevice Minor: \t 3\n";

    #[test]
    fn the_drivers_list_is_read() {
        assert_eq!(parse_information(INFORMATION), Some(Gpu { uuid: "GPU-1b2c".into(), minor: 3 }));
        assert_eq!(parse_information("Model: x"), None);
    }

    #[test]
    fn gpus_come_in_the_order_of_their_nodes() {
        let root = tempfile::tempdir().unwrap();
        for (slot, minor) in [("0000:01", 1), ("0000:02", 0)] {
            let dir = root.path().join(slot);
            fs_err::create_dir(&dir).unwrap();
            let text = format!("GPU UUID: GPU-{minor}\nDevice Minor: {minor}\n");
            fs_err::write(dir.join("information"), text).unwrap();
        }
        let uuids: Vec<_> = gpus_in(root.path()).into_iter().map(|g| g.uuid).collect();
        assert_eq!(uuids, ["GPU-0", "GPU-1"]);
        assert!(gpus_in(&root.path().join("none")).is_empty());
    }
}

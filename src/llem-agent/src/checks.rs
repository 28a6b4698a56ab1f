//! What makes a finished run worth less: the codes that need no sensor.

use llem_protocol::{Device, DeviceKind, PassRecord, Reason, ReasonCode, RequestRecord, SelfUsage, WarmupRecord};

use crate::clock;
use crate::power::Work;
use crate::records::pass_place;

/// What belongs to the work around its beginning and end is known to about 10 ms: 0.1 % of this, at each edge.
const MIN_WINDOW_S: f64 = 10.0;

/// Warm-up passes that a run should have.
const MIN_WARMUP_PASSES: u32 = 3;

/// Seconds that a thermal floor has at least.
const MIN_FLOOR_S: f64 = 30.0;

/// Share of one core that the agent may use.
const MAX_AGENT_SHARE: f64 = 0.01;

/// The window is too short to be compared.
pub(crate) fn window_length(work: Work) -> Option<Reason> {
    let seconds = clock::seconds_between(work.start_ns, work.end_ns);
    let happened = format!("the window took {seconds:.2} s, less than {MIN_WINDOW_S} s");
    (seconds < MIN_WINDOW_S).then(|| Reason::new(ReasonCode::WindowTooShort, happened))
}

/// Warm-up had few passes.
pub(crate) fn warmup_length(warmup: &WarmupRecord) -> Option<Reason> {
    let passes = warmup.passes;
    let happened = format!("{passes} warm-up passes, fewer than {MIN_WARMUP_PASSES}");
    (passes < MIN_WARMUP_PASSES).then(|| Reason::new(ReasonCode::WarmupShortened, happened))
}

/// Warm-up had little time, where that matters.
pub(crate) fn thermal_floor(warmup: &WarmupRecord) -> Option<Reason> {
    let happened = format!("warm-up was asked for {} s, less than {MIN_FLOOR_S} s", warmup.floor_s);
    (warmup.floor_applied && warmup.floor_s < MIN_FLOOR_S)
        .then(|| Reason::new(ReasonCode::ThermalFloorShortened, happened))
}

/// The agent disturbed what it measured, by its messages for each pass or by sampling.
pub(crate) fn agent_share(usage: &SelfUsage) -> Option<Reason> {
    let happened = format!("the agent used {:.2} % of a core in the window", usage.cpu_share * 100.0);
    (usage.cpu_share > MAX_AGENT_SHARE).then(|| Reason::new(ReasonCode::AgentOverhead, happened))
}

/// A pass's totals, as the driver gave them, are not the sums of its records: it counts padding, or forgets requests.
pub(crate) fn token_totals(passes: &[PassRecord], records: &[RequestRecord]) -> Option<Reason> {
    let mut sums = vec![(0_u64, 0_u64); passes.len()];
    for record in records {
        if let Some((prompt, output)) = pass_place(passes, record.pass).and_then(|place| sums.get_mut(place)) {
            *prompt += u64::from(record.prompt_tokens);
            *output += record.output_ids.len() as u64;
        }
    }
    passes.iter().zip(sums).find_map(|(pass, (prompt, output))| {
        let text = format!(
            "pass {}: the driver counted {} prompt and {} generated tokens, its records hold {prompt} and {output}",
            pass.pass, pass.prompt_tokens, pass.output_tokens
        );
        let differs = (prompt, output) != (pass.prompt_tokens, pass.output_tokens);
        differs.then(|| Reason::new(ReasonCode::TokenCountMismatch, text))
    })
}

/// The engine computes elsewhere than the experiment asked.
pub(crate) fn devices(gpus: &[String], devices: &[Device]) -> Option<Reason> {
    if devices.is_empty() && !gpus.is_empty() {
        let text = format!("the engine names no device, the experiment asked for {}", gpus.join(", "));
        return Some(Reason::new(ReasonCode::WrongDevice, text));
    }
    let wrong = devices.iter().find(|device| !is_asked(gpus, device))?;
    let found = match (&wrong.kind, &wrong.uuid) {
        (DeviceKind::Cpu, _) => "the processor",
        (DeviceKind::Gpu, Some(uuid)) => uuid,
        (DeviceKind::Gpu, None) => "a GPU",
    };
    let asked = if gpus.is_empty() { "the processor".to_owned() } else { gpus.join(", ") };
    let text = format!("the engine computes on {found}, the experiment asked for {asked}");
    Some(Reason::new(ReasonCode::WrongDevice, text))
}

fn is_asked(gpus: &[String], device: &Device) -> bool {
    match (device.kind, &device.uuid) {
        (DeviceKind::Cpu, _) => gpus.is_empty(),
        // An engine that does not name its GPU cannot be contradicted.
        (DeviceKind::Gpu, None) => !gpus.is_empty(),
        (DeviceKind::Gpu, Some(uuid)) => gpus.iter().any(|gpu| bare_uuid(gpu) == bare_uuid(uuid)),
    }
}

/// Engines give UUIDs with and without the prefix, and in either case.
fn bare_uuid(uuid: &str) -> String {
    let lower = uuid.to_ascii_lowercase();
    lower.strip_prefix("gpu-").unwrap_or(&lower).to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn device(kind: DeviceKind, uuid: Option<&str>) -> Device {
        Device { kind, uuid: uuid.map(str::to_owned), name: None }
    }

    #[test]
    fn the_engines_device_is_compared_with_the_jobs() {
        let gpus = ["GPU-AB".to_owned(), "GPU-cd".to_owned()];
        assert_eq!(
            devices(&gpus, &[device(DeviceKind::Gpu, Some("ab")), device(DeviceKind::Gpu, Some("GPU-CD"))]),
            None
        );
        assert_eq!(devices(&[], &[device(DeviceKind::Cpu, None)]), None);
        assert_eq!(devices(&[], &[]), None);
        assert_eq!(devices(&gpus, &[]).unwrap().code, ReasonCode::WrongDevice);
        for (gpus, found) in [
            (&gpus[..], device(DeviceKind::Cpu, None)),
            (&gpus[..], device(DeviceKind::Gpu, Some("GPU-ef"))),
            (&[], device(DeviceKind::Gpu, Some("GPU-ab"))),
        ] {
            assert_eq!(devices(gpus, &[found]).unwrap().code, ReasonCode::WrongDevice);
        }
    }

    #[test]
    fn limits_are_where_they_are_said_to_be() {
        let work = |end_ns| Work { start_ns: 0, end_ns };
        assert_eq!(window_length(work(10_000_000_000)), None);
        assert_eq!(window_length(work(9_999_999_999)).unwrap().code, ReasonCode::WindowTooShort);
        let warmup = |passes, floor_s, floor_applied| WarmupRecord { passes, seconds: 1.0, floor_s, floor_applied };
        assert_eq!(warmup_length(&warmup(3, 0.0, false)), None);
        assert_eq!(warmup_length(&warmup(2, 60.0, true)).unwrap().code, ReasonCode::WarmupShortened);
        assert_eq!(thermal_floor(&warmup(3, 30.0, true)), None);
        assert_eq!(thermal_floor(&warmup(3, 0.0, false)), None);
        assert_eq!(thermal_floor(&warmup(3, 0.0, true)).unwrap().code, ReasonCode::ThermalFloorShortened);
        let usage = |cpu_share| SelfUsage { cpu_s: 0.0, cpu_share, resident_bytes: None };
        assert_eq!(agent_share(&usage(0.01)), None);
        assert_eq!(agent_share(&usage(0.011)).unwrap().code, ReasonCode::AgentOverhead);
    }

    fn pass(pass: u32, output_tokens: u64) -> PassRecord {
        PassRecord { pass, start_ns: 0, end_ns: 9, prompt_tokens: 3, output_tokens }
    }

    fn record(pass: u32) -> RequestRecord {
        let (token_ns, output_ids) = (vec![1, 2], vec![5, 5]);
        RequestRecord { pass, index: 0, batch: None, prompt_tokens: 3, submit_ns: 0, token_ns, output_ids }
    }

    #[test]
    fn counted_padding_shows_in_the_totals() {
        let records = [record(7), record(6)];
        assert_eq!(token_totals(&[pass(6, 2), pass(7, 2)], &records), None);
        let reason = token_totals(&[pass(6, 2), pass(7, 8)], &records).unwrap();
        assert_eq!(reason.code, ReasonCode::TokenCountMismatch);
        assert!(reason.message.starts_with("pass 7: "), "{}", reason.message);
        assert_eq!(token_totals(&[pass(6, 2)], &[]).unwrap().code, ReasonCode::TokenCountMismatch);
    }

    #[test]
    fn totals_of_as_many_passes_as_a_tiny_model_makes_are_compared_in_no_time() {
        let passes: Vec<PassRecord> = (3..150_003).map(|number| pass(number, 2)).collect();
        let records: Vec<RequestRecord> = (3..150_003).map(record).collect();
        let start = Instant::now();
        assert_eq!(token_totals(&passes, &records), None);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

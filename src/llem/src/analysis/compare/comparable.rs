//! Whether two sides measured the same thing: what must be equal, and what a reader has to know when it is not.

use std::collections::BTreeSet;

use super::pairs::Pair;
use super::text::shown;
use crate::result::{GpuIdentity, Metrics, RunIdentity, RunRow};
use llem_protocol::{CpuList, PowerSourceKind};

/// What was found about one pair.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Why it is not comparable.
    pub(super) refused: Vec<String>,
    /// What a reader has to know.
    pub(super) warnings: Vec<String>,
    /// What differs and may: engine, image.
    pub(super) differs: Vec<String>,
    /// Whether the error of the sensors' gain is the same on both sides, and so no part of their ratio.
    pub(super) gain_cancels: bool,
    /// Whether runs of the same cycle were on different GPUs or nodes: they do not belong together more than others.
    pub(super) is_apart: bool,
}

/// What a difference means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Refuse,
    /// As `Refuse`, and the sensors are others.
    RefuseSensor,
    Warn,
    Inform,
}

/// One fact about the runs of a side.
struct Fact {
    name: &'static str,
    weight: Weight,
    of: fn(&RunRow) -> Option<String>,
}

const FACTS: &[Fact] = &[
    Fact { name: "GPU model", weight: Weight::Refuse, of: |row| on_gpus(row, |gpu| gpu.name.clone()) },
    Fact { name: "GPU", weight: Weight::RefuseSensor, of: gpu_uuids },
    Fact {
        name: "power limit",
        weight: Weight::Refuse,
        of: |row| on_gpus(row, |gpu| Some(format!("{} W", gpu.power_limit_w?))).filter(|_| has_gpu(row)),
    },
    Fact { name: "processor", weight: Weight::RefuseSensor, of: |row| processor(row).filter(|_| !has_gpu(row)) },
    Fact { name: "processor", weight: Weight::Warn, of: |row| processor(row).filter(|_| has_gpu(row)) },
    Fact { name: "processors that runs were kept to", weight: Weight::Refuse, of: kept_to },
    Fact { name: "energy sensors", weight: Weight::RefuseSensor, of: |row| row.metrics.as_ref().and_then(sensors) },
    Fact { name: "calibration", weight: Weight::RefuseSensor, of: |row| row.metrics.as_ref().and_then(calibrations) },
    Fact { name: "workload", weight: Weight::Refuse, of: |row| identity(row).map(|id| id.workload_sha256.clone()) },
    Fact { name: "tokens per request", weight: Weight::Refuse, of: |row| row.metrics.as_ref().map(tokens) },
    Fact { name: "model revision", weight: Weight::Refuse, of: |row| identity(row)?.model_revision.clone() },
    Fact { name: "adapter", weight: Weight::Refuse, of: |row| identity(row).map(|id| weights(id.adapter.as_ref())) },
    Fact {
        name: "draft model",
        weight: Weight::Refuse,
        of: |row| identity(row).map(|id| weights(id.draft_model.as_ref())),
    },
    Fact { name: "data type of the weights", weight: Weight::Refuse, of: |row| identity(row)?.dtype.clone() },
    Fact { name: "GPU driver", weight: Weight::Warn, of: |row| identity(row)?.gpu_driver.clone() },
    Fact { name: "memory of the machine", weight: Weight::Warn, of: |row| Some(gib(identity(row)?.memory_bytes?)) },
    Fact { name: "frequency governor", weight: Weight::Warn, of: |row| identity(row)?.cpu_governor.clone() },
    Fact { name: "runner", weight: Weight::Warn, of: |row| identity(row).map(|id| id.runner.clone()) },
    Fact { name: "llem", weight: Weight::Warn, of: |row| identity(row).map(|id| id.llem_version.clone()) },
    Fact { name: "engine", weight: Weight::Inform, of: engine },
    Fact { name: "image", weight: Weight::Inform, of: |row| Some(short_id(identity(row)?.image_id.as_deref()?)) },
];

impl Findings {
    /// Holds the valid runs of both sides against each other. What `key` stands for may differ.
    pub(super) fn of(pair: &Pair<'_>, key: Option<&str>) -> Self {
        let [a, b] = [pair.baseline, pair.candidate]
            .map(|side| side.runs.iter().filter(|row| row.valid && row.metrics.is_some()).collect::<Vec<_>>());
        let mut findings = Self { gain_cancels: true, ..Self::default() };
        if a.is_empty() || b.is_empty() {
            return findings;
        }
        for (rows, role) in [(&a, "baseline"), (&b, "candidate")] {
            if rows.iter().any(|row| row.identity.is_none()) {
                findings.warnings.push(format!(
                    "the {role} does not say on which machine, workload and weights it was measured: an older llem wrote it; \
                     the sensors' gain counts as different"
                ));
                findings.gain_cancels = false;
            }
        }
        findings.hold_places(&a, &b);
        for fact in FACTS.iter().filter(|fact| !varies(key, fact.name)) {
            findings.weigh(fact, &values(&a, fact), &values(&b, fact));
        }
        findings
    }

    /// Runs of a batch system may be on any of its nodes. What is compared within one GPU (one node, without GPUs) shares that device's
    /// sensors and its history; what is not, is marked.
    fn hold_places(&mut self, a: &[&RunRow], b: &[&RunRow]) {
        let all = |rows: &[&RunRow]| rows.iter().filter_map(|row| place(row)).collect::<BTreeSet<String>>();
        let (places_a, places_b) = (all(a), all(b));
        // Other GPUs on the other side are told below.
        let is_told = places_a != places_b && a.iter().any(|row| has_gpu(row));
        let places: BTreeSet<String> = places_a.union(&places_b).cloned().collect();
        if places.len() < 2 || is_told {
            return;
        }
        let what = if a.iter().any(|row| has_gpu(row)) { "GPU" } else { "node" };
        let is_apart = |one: &&RunRow| b.iter().any(|other| other.cycle == one.cycle && place(other) != place(one));
        self.is_apart = a.iter().any(is_apart);
        self.gain_cancels &= !self.is_apart;
        self.warnings.push(if self.is_apart {
            format!("not within one {what}: runs of one cycle are on different ones; {}", listed(&places))
        } else {
            format!("each cycle is within one {what}, cycles are on several: {}", listed(&places))
        });
    }

    fn weigh(&mut self, fact: &Fact, a: &BTreeSet<String>, b: &BTreeSet<String>) {
        if a == b {
            return;
        }
        let text = format!("{}: {} in the baseline, {} in the candidate", fact.name, listed(a), listed(b));
        let is_unknown = a.is_empty() || b.is_empty();
        match fact.weight {
            Weight::Inform => self.differs.push(format!("{}: {} → {}", fact.name, listed(a), listed(b))),
            Weight::Warn if is_unknown => {}
            Weight::Warn => self.warnings.push(text),
            // That one side has no energy is told by the figure itself.
            Weight::RefuseSensor if is_unknown && matches!(fact.name, "energy sensors" | "calibration") => {}
            Weight::Refuse | Weight::RefuseSensor if is_unknown => self.warnings.push(text),
            Weight::Refuse | Weight::RefuseSensor => self.refused.push(text),
        }
        if fact.weight == Weight::RefuseSensor {
            self.gain_cancels = false;
        }
    }
}

/// Whether a fact follows from the key by which the experiments were chosen to differ.
fn varies(key: Option<&str>, fact: &str) -> bool {
    let Some(key) = key else { return false };
    let begins = |start: &str| key == start || key.starts_with(&format!("{start}."));
    match fact {
        "workload" | "tokens per request" => begins("workload") || begins("random_seed") || begins("model"),
        "model revision" => begins("model"),
        "adapter" => begins("lora"),
        "draft model" => key.contains("speculative"),
        "data type of the weights" => begins("dtype") || begins("model") || key.contains("quant"),
        _ => false,
    }
}

fn values(rows: &[&RunRow], fact: &Fact) -> BTreeSet<String> {
    rows.iter().filter_map(|row| (fact.of)(row)).collect()
}

fn listed(values: &BTreeSet<String>) -> String {
    if values.is_empty() {
        return "not known".to_owned();
    }
    values.iter().map(|value| shown(value)).collect::<Vec<_>>().join(" and ")
}

fn identity(row: &RunRow) -> Option<&RunIdentity> {
    row.identity.as_ref()
}

fn has_gpu(row: &RunRow) -> bool {
    identity(row).is_some_and(|id| !id.gpus.is_empty()) || !sensors_of_gpus(row).is_empty()
}

/// The same of all GPUs of a run; `none` for a run on the processor, nothing where it is not known.
fn on_gpus(row: &RunRow, of: impl Fn(&GpuIdentity) -> Option<String>) -> Option<String> {
    let gpus = &identity(row)?.gpus;
    if gpus.is_empty() {
        return Some("none".to_owned());
    }
    let mut all: Vec<String> = gpus.iter().filter_map(of).collect();
    all.sort();
    (!all.is_empty()).then(|| all.join(", "))
}

/// As the run's identity has them, else as the sensors that count are called.
fn gpu_uuids(row: &RunRow) -> Option<String> {
    let of_sensors = sensors_of_gpus(row);
    let known = on_gpus(row, |gpu| gpu.uuid.clone());
    if of_sensors.is_empty() { known } else { known.filter(|gpus| gpus != "none").or(Some(of_sensors.join(", "))) }
}

/// Where a run was: its GPUs, else the batch system's node.
fn place(row: &RunRow) -> Option<String> {
    if has_gpu(row) { gpu_uuids(row) } else { identity(row)?.node.clone() }
}

fn sensors_of_gpus(row: &RunRow) -> Vec<&str> {
    let domains = row.metrics.iter().flat_map(|metrics| &metrics.energy.domains);
    let counted = domains.filter(|d| d.counted && d.domain.source == PowerSourceKind::Nvml);
    let ids: BTreeSet<&str> = counted.map(|d| d.domain.id.as_str()).collect();
    ids.into_iter().collect()
}

fn processor(row: &RunRow) -> Option<String> {
    let id = identity(row)?;
    let cpus = id.cpus.map_or_else(String::new, |cpus| format!(", {cpus} logical"));
    Some(format!("{}{cpus}", id.cpu_model.as_deref()?))
}

/// The processors that engine and agent could use. A batch system gives every job others: there, how many they are.
fn kept_to(row: &RunRow) -> Option<String> {
    let id = identity(row)?;
    let list = |cpus: &Option<String>| cpus.as_ref()?.parse::<CpuList>().ok();
    let (engine, agent) = (list(&id.engine_cpus)?, list(&id.agent_cpus)?);
    Some(match id.node {
        Some(_) => format!("{} for the engine, {} for the agent", engine.iter().count(), agent.iter().count()),
        None if engine == agent => engine.to_string(),
        None => format!("{engine} (agent {agent})"),
    })
}

/// Of what `energy_j` is the sum. GPUs are told apart by another fact.
fn sensors(metrics: &Metrics) -> Option<String> {
    let counted = metrics.energy.domains.iter().filter(|domain| domain.counted);
    let mut names: Vec<String> = counted
        .map(|d| match d.domain.source {
            PowerSourceKind::Nvml => format!("nvml {:?}", d.domain.scope).to_lowercase(),
            PowerSourceKind::Rapl => format!("rapl {}", d.domain.id),
        })
        .collect();
    names.sort();
    (metrics.energy.energy_j.is_some() && !names.is_empty()).then(|| names.join(", "))
}

fn calibrations(metrics: &Metrics) -> Option<String> {
    sensors(metrics)?;
    let counted = metrics.energy.domains.iter().filter(|domain| domain.counted);
    let mut factors: Vec<String> = counted
        .map(|d| d.calibration.as_ref().map_or_else(|| "none".to_owned(), |c| format!("{} of {}", c.factor, c.date)))
        .collect();
    factors.sort();
    Some(factors.join(", "))
}

/// Means over the requests, which are the same whatever the number of passes.
fn tokens(metrics: &Metrics) -> String {
    let each = |tokens: u64| if metrics.requests == 0 { 0.0 } else { tokens as f64 / metrics.requests as f64 };
    format!("{:.4} prompt, {:.4} generated", each(metrics.prompt_tokens), each(metrics.output_tokens))
}

/// `none` is known: a run without an adapter.
fn weights(weights: Option<&crate::result::WeightsIdentity>) -> String {
    let known = |w: &crate::result::WeightsIdentity| format!("{}@{}", w.source, w.revision.as_deref().unwrap_or("-"));
    weights.map_or_else(|| "none".to_owned(), known)
}

fn gib(bytes: u64) -> String {
    format!("{} GiB", (bytes as f64 / f64::from(1u32 << 30)).round())
}

fn engine(row: &RunRow) -> Option<String> {
    let id = identity(row)?;
    Some(format!("{} {}", id.engine.as_deref()?, id.engine_version.as_deref().unwrap_or("-")))
}

fn short_id(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::Findings;
    use crate::result::{GpuIdentity, RunIdentity, RunRow, RunStatus};

    fn row(cycle: u32, node: &str, gpu: Option<&str>) -> RunRow {
        let identity_of = |uuid: &str| GpuIdentity { uuid: Some(uuid.to_owned()), ..GpuIdentity::default() };
        let gpus = gpu.map(identity_of).into_iter().collect();
        let identity = RunIdentity { node: Some(node.to_owned()), gpus, ..RunIdentity::default() };
        RunRow {
            run_id: String::new(),
            label: String::new(),
            cycle,
            status: RunStatus::Completed,
            valid: true,
            reasons: Vec::new(),
            failure: None,
            metrics: None,
            engine_cache: None,
            identity: Some(identity),
        }
    }

    /// The warnings, whether the gain cancels, and whether cycles are apart.
    fn held(a: &[RunRow], b: &[RunRow]) -> (Vec<String>, bool, bool) {
        let mut findings = Findings { gain_cancels: true, ..Findings::default() };
        findings.hold_places(&a.iter().collect::<Vec<_>>(), &b.iter().collect::<Vec<_>>());
        (findings.warnings, findings.gain_cancels, findings.is_apart)
    }

    #[test]
    fn what_is_not_within_a_gpu_is_marked() {
        let (a, b) = (Some("GPU-a"), Some("GPU-b"));
        assert_eq!(held(&[row(1, "n", a), row(2, "n", a)], &[row(1, "n", a)]), (vec![], true, false));
        let (said, cancels, is_apart) = held(&[row(1, "n", a), row(2, "n", b)], &[row(1, "n", b), row(2, "n", a)]);
        assert!(said[0].starts_with("not within one GPU: runs of one cycle") && !cancels && is_apart, "{said:?}");
        let (said, cancels, is_apart) = held(&[row(1, "n", a), row(2, "m", b)], &[row(1, "n", a), row(2, "m", b)]);
        assert!(said[0].starts_with("each cycle is within one GPU") && cancels && !is_apart, "{said:?}");
        // Without GPUs the node counts; without a batch system there is one machine, which other facts tell of.
        let (said, ..) = held(&[row(1, "n", None)], &[row(1, "m", None)]);
        assert!(said[0].starts_with("not within one node"), "{said:?}");
        // All other GPUs on the other side: refused elsewhere.
        assert_eq!(held(&[row(1, "n", a)], &[row(1, "n", b)]), (vec![], true, false));
    }
}

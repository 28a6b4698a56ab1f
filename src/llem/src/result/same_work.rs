//! Whether different backends said the same.
//!
//! Runs did the work that they were asked ([`super::check_work`]). What runs of one workload and one model generated is then compared between
//! backends: in greedy decoding the same weights in the same precision give nearly the same tokens, whoever multiplies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::StoreError;
use super::parquet::read_generated;

/// Tokens at the head of each output that are compared. After the first difference, the rest is another text.
pub const COMPARED_TOKENS: usize = 16;

/// Most token ids that are kept until a study ends: 64 MiB. Runs that say the same share them.
const KEPT_IDS: usize = 1 << 24;

/// Most different outputs of one backend that are kept for one workload and model.
const KEPT_OUTPUTS: usize = 64;

/// Most differences of lengths that a record lists.
const LISTED_DIFFERENCES: usize = 10;

/// Who generated, and how exactly it computed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Variant {
    /// The backend.
    pub backend: String,
    /// Data type that the engine says it computed in, else the one asked for.
    pub dtype: String,
    /// How weights or key-value cache are quantised; null when they are not.
    pub quantization: Option<String>,
}

impl Variant {
    /// Whether outputs of both should be the same but for the order of sums.
    fn is_comparable(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.quantization.is_none() && other.quantization.is_none()
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.backend, self.dtype)?;
        self.quantization.as_ref().map_or(Ok(()), |how| write!(f, ", {how}"))?;
        f.write_str(")")
    }
}

/// What a measured run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunWork {
    /// The run.
    pub run_id: String,
    /// Hash of the workload.
    pub workload_sha256: String,
    /// Which weights: source, revision, adapter.
    pub weights: String,
    /// Who generated.
    pub variant: Variant,
    /// Whether tokens were chosen greedily; sampled ones are not compared.
    pub greedy: bool,
    /// Whether the end-of-sequence token was ignored, so that lengths must be equal.
    pub exact: bool,
    /// What it generated.
    pub output: Output,
}

/// The requests of a window's first pass, in the order of the workload: lengths, and the heads of the outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Prompt and generated tokens of each request.
    lengths: Vec<(u32, u32)>,
    /// The first ids of each request, at most [`COMPARED_TOKENS`], one request after the other.
    ids: Vec<u32>,
}

/// What a row of `requests.parquet` says of what was generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Generated {
    pub(super) pass: u32,
    pub(super) index: u64,
    pub(super) prompt_tokens: u32,
    pub(super) output_ids: Vec<u32>,
}

impl Output {
    /// The output in the `requests.parquet` of a run.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::of(&read_generated(path)?))
    }

    fn of(requests: &[Generated]) -> Self {
        let first = requests.iter().map(|request| request.pass).min();
        let mut pass: Vec<_> = requests.iter().filter(|request| Some(request.pass) == first).collect();
        pass.sort_by_key(|request| request.index);
        Self {
            lengths: pass.iter().map(|request| (request.prompt_tokens, request.output_ids.len() as u32)).collect(),
            ids: pass.iter().flat_map(|request| request.output_ids.iter().take(COMPARED_TOKENS).copied()).collect(),
        }
    }

    /// The heads of the outputs, request by request.
    fn heads(&self) -> impl Iterator<Item = &[u32]> {
        let mut rest = self.ids.as_slice();
        self.lengths.iter().map(move |(_, generated)| {
            let (head, tail) = rest.split_at(rest.len().min((*generated as usize).min(COMPARED_TOKENS)));
            rest = tail;
            head
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        self.lengths
            .iter()
            .flat_map(|(prompt, generated)| [prompt, generated])
            .for_each(|n| hash.update(n.to_le_bytes()));
        self.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        hash.finalize().into()
    }
}

/// Runs of one workload and one model by several backends: a part of `study.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SameWork {
    /// Hash of the workload.
    pub workload_sha256: String,
    /// Which weights: source, revision, adapter.
    pub weights: String,
    /// The backends.
    pub backends: Vec<String>,
    /// Measured runs.
    pub runs: u64,
    /// Requests in one pass.
    pub requests: u64,
    /// Whether all runs had the same prompt and output lengths for every request.
    pub lengths_equal: bool,
    /// Whether they had to: not where the end-of-sequence token is obeyed.
    pub lengths_must_be_equal: bool,
    /// The first differences of lengths.
    pub length_differences: Vec<LengthDifference>,
    /// Greedy outputs of each two backends; empty when tokens were sampled.
    pub outputs: Vec<OutputComparison>,
    /// Runs whose outputs were too many different ones to be kept for the comparison.
    pub runs_not_compared: u64,
}

impl SameWork {
    /// Whether runs differ that may not.
    pub fn is_different_work(&self) -> bool {
        self.lengths_must_be_equal && !self.lengths_equal
    }
}

/// A request that two runs carried out with different lengths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LengthDifference {
    /// Position in the workload.
    pub request_index: u64,
    /// Both runs.
    pub runs: [String; 2],
    /// Prompt tokens in each; null where a run has no such request.
    pub prompt_tokens: [Option<u32>; 2],
    /// Generated tokens in each.
    pub output_tokens: [Option<u32>; 2],
}

/// Greedy outputs of two backends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputComparison {
    /// The backends with their precision.
    pub variants: [Variant; 2],
    /// Whether both computed in the same data type without quantisation; else the figures are for information.
    pub comparable: bool,
    /// Runs of each.
    pub runs: [u64; 2],
    /// Tokens of each request that are compared, at most.
    pub compared_tokens: u64,
    /// Share of equal ids among them, over all requests: of the two runs that agree least.
    pub equal_share: f64,
    /// The same, mean over all pairs of runs.
    pub equal_share_mean: f64,
    /// The two runs that agree least.
    pub least_equal_runs: [String; 2],
    /// The request in which they agree least; null when all are equal.
    pub least_equal_request: Option<u64>,
}

/// Keeps what runs generated until the study ends.
#[derive(Debug)]
pub struct SameWorkLedger {
    groups: BTreeMap<(String, String), Group>,
    ids_left: usize,
}

impl Default for SameWorkLedger {
    fn default() -> Self {
        Self { groups: BTreeMap::new(), ids_left: KEPT_IDS }
    }
}

/// Runs of one workload with the same weights.
#[derive(Debug, Default)]
struct Group {
    runs: u64,
    backends: BTreeSet<String>,
    exact: bool,
    /// The first run, which the lengths of all others are compared with.
    first: Option<(String, Vec<(u32, u32)>)>,
    lengths_equal: bool,
    differences: Vec<LengthDifference>,
    /// Different greedy outputs of each variant.
    outputs: BTreeMap<Variant, HashMap<[u8; 32], Kept>>,
    not_compared: u64,
}

/// An output with the runs that gave it.
#[derive(Debug)]
struct Kept {
    output: Output,
    runs: u64,
    first_run: String,
}

impl SameWorkLedger {
    /// Takes a measured run.
    pub fn add(&mut self, work: RunWork) {
        let group = self.groups.entry((work.workload_sha256, work.weights)).or_insert_with(|| Group {
            exact: true,
            lengths_equal: true,
            ..Group::default()
        });
        group.runs += 1;
        group.exact &= work.exact;
        group.backends.insert(work.variant.backend.clone());
        group.compare_lengths(&work.run_id, &work.output.lengths);
        if !work.greedy {
            return;
        }
        let outputs = group.outputs.entry(work.variant).or_default();
        let digest = work.output.digest();
        if let Some(kept) = outputs.get_mut(&digest) {
            kept.runs += 1;
        } else if outputs.len() < KEPT_OUTPUTS && work.output.ids.len() <= self.ids_left {
            self.ids_left -= work.output.ids.len();
            outputs.insert(digest, Kept { output: work.output, runs: 1, first_run: work.run_id });
        } else {
            group.not_compared += 1;
        }
    }

    /// What the runs of several backends had in common, by workload and weights.
    pub fn conclude(&self) -> Vec<SameWork> {
        let shared = self.groups.iter().filter(|(_, group)| group.backends.len() > 1);
        shared.map(|((workload, weights), group)| group.conclude(workload, weights)).collect()
    }
}

impl Group {
    fn compare_lengths(&mut self, run_id: &str, lengths: &[(u32, u32)]) {
        let Some((first_run, first)) = &self.first else {
            self.first = Some((run_id.to_owned(), lengths.to_vec()));
            return;
        };
        if first == lengths {
            return;
        }
        self.lengths_equal = false;
        for index in 0..first.len().max(lengths.len()) {
            let (a, b) = (first.get(index), lengths.get(index));
            if a == b || self.differences.len() >= LISTED_DIFFERENCES {
                continue;
            }
            self.differences.push(LengthDifference {
                request_index: index as u64,
                runs: [first_run.clone(), run_id.to_owned()],
                prompt_tokens: [a, b].map(|lengths| lengths.map(|(prompt, _)| *prompt)),
                output_tokens: [a, b].map(|lengths| lengths.map(|(_, generated)| *generated)),
            });
        }
    }

    fn conclude(&self, workload: &str, weights: &str) -> SameWork {
        let variants: Vec<_> = self.outputs.iter().collect();
        let pairs = variants.iter().enumerate().flat_map(|(at, a)| variants.iter().skip(at + 1).map(move |b| (a, b)));
        let across = pairs.filter(|(a, b)| a.0.backend != b.0.backend);
        SameWork {
            workload_sha256: workload.to_owned(),
            weights: weights.to_owned(),
            backends: self.backends.iter().cloned().collect(),
            runs: self.runs,
            requests: self.first.as_ref().map_or(0, |(_, lengths)| lengths.len() as u64),
            lengths_equal: self.lengths_equal,
            lengths_must_be_equal: self.exact,
            length_differences: self.differences.clone(),
            outputs: across.filter_map(|(a, b)| compare((a.0, a.1), (b.0, b.1))).collect(),
            runs_not_compared: self.not_compared,
        }
    }
}

type Outputs<'a> = (&'a Variant, &'a HashMap<[u8; 32], Kept>);

/// Compares every output of one variant with every output of another.
fn compare(a: Outputs<'_>, b: Outputs<'_>) -> Option<OutputComparison> {
    let runs = [a, b].map(|(_, outputs)| outputs.values().map(|kept| kept.runs).sum::<u64>());
    let pairs = a.1.values().flat_map(|one| b.1.values().map(move |other| (one, other)));
    let (mut sum, mut least): (f64, Option<(Agreement, [&str; 2])>) = (0.0, None);
    for (one, other) in pairs {
        let found = agreement(&one.output, &other.output);
        sum += found.share * (one.runs * other.runs) as f64;
        let names = [one.first_run.as_str(), other.first_run.as_str()];
        // The order of a hash map is not repeatable: the names decide between equals.
        let is_less = least.as_ref().is_none_or(|(least, of)| (found.share, names) < (least.share, *of));
        if is_less {
            least = Some((found, names));
        }
    }
    let (least, names) = least?;
    Some(OutputComparison {
        variants: [a.0.clone(), b.0.clone()],
        comparable: a.0.is_comparable(b.0),
        runs,
        compared_tokens: COMPARED_TOKENS as u64,
        equal_share: least.share,
        equal_share_mean: sum / (runs[0] * runs[1]) as f64,
        least_equal_runs: names.map(str::to_owned),
        least_equal_request: least.request,
    })
}

/// How far two outputs agree.
struct Agreement {
    /// Share of equal ids.
    share: f64,
    /// The request with the smallest share; none when all are equal.
    request: Option<u64>,
}

fn agreement(a: &Output, b: &Output) -> Agreement {
    let (mut equal, mut all) = (0_u64, 0_u64);
    let mut least: Option<(f64, u64)> = None;
    for (index, (one, other)) in (0..).zip(a.heads().zip(b.heads())) {
        let same = one.iter().zip(other).filter(|(x, y)| x == y).count() as u64;
        let length = one.len().max(other.len()) as u64;
        equal += same;
        all += length;
        let share = same as f64 / length.max(1) as f64;
        if same < length && least.is_none_or(|(smallest, _)| share < smallest) {
            least = Some((share, index));
        }
    }
    let share = if all == 0 { 1.0 } else { equal as f64 / all as f64 };
    Agreement { share, request: least.map(|(_, index)| index) }
}

#[cfg(test)]
mod tests;

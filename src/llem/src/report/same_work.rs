//! What backends did alike, in the words under a study's table.

use std::collections::BTreeMap;

use crate::result::{OutputComparison, SameWork, Variant};

use super::words::count;

/// Below this share of equal tokens, float32 is no explanation.
const SUSPICIOUS: f64 = 0.95;

/// One line for lengths, one for each two backends that decoded greedily; nothing where one backend ran alone.
pub fn notes(all: &[SameWork]) -> Vec<String> {
    if all.is_empty() {
        return Vec::new();
    }
    let mut notes = vec![lengths(all)];
    let mut pairs: BTreeMap<&[Variant; 2], Vec<&OutputComparison>> = BTreeMap::new();
    for pair in all.iter().flat_map(|same| &same.outputs) {
        pairs.entry(&pair.variants).or_default().push(pair);
    }
    notes.extend(pairs.values().filter_map(|comparisons| outputs(comparisons)));
    let left_out: u64 = all.iter().map(|same| same.runs_not_compared).sum();
    if left_out > 0 {
        notes.push(format!(
            "the outputs of {} were too many different ones to compare",
            count(left_out as usize, "run")
        ));
    }
    notes
}

fn lengths(all: &[SameWork]) -> String {
    let runs: u64 = all.iter().map(|same| same.runs).sum();
    let Some(other) = all.iter().find(|same| !same.lengths_equal) else {
        let of = if all.len() == 1 { "one workload".to_owned() } else { count(all.len(), "workload") };
        let (backends, runs) = (backends(all), count(runs as usize, "run"));
        return format!("same work: {backends} ran {of} with the same prompts and equal lengths ({runs})");
    };
    let head = if other.lengths_must_be_equal { "different work" } else { "lengths differ, as `ignore_eos` is false" };
    let Some(first) = other.length_differences.first() else { return head.to_owned() };
    let show = |tokens: Option<u32>| tokens.map_or_else(|| "no".to_owned(), |tokens| tokens.to_string());
    let side = |at: usize| {
        let (prompt, output) = (first.prompt_tokens[at], first.output_tokens[at]);
        format!("{} prompt and {} generated tokens in {}", show(prompt), show(output), first.runs[at])
    };
    format!("{head}: request {} has {}, {}", first.request_index, side(0), side(1))
}

fn backends(all: &[SameWork]) -> String {
    let names: std::collections::BTreeSet<_> = all.iter().flat_map(|same| &same.backends).map(String::as_str).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// All workloads of two backends in one line: the least equal counts.
fn outputs(comparisons: &[&OutputComparison]) -> Option<String> {
    let least = comparisons.iter().min_by(|a, b| a.equal_share.total_cmp(&b.equal_share))?;
    let [a, b] = &least.variants;
    // Rounded down: only what is equal is 100 %.
    let percent = (least.equal_share * 1000.0).floor() / 10.0;
    let mut text = format!(
        "same tokens: {a} and {b}: {percent:.1} % of the first {} greedy tokens of each request are equal",
        least.compared_tokens
    );
    if let Some(request) = least.least_equal_request {
        text = format!(
            "{text} (least in request {request} of {} and {})",
            least.least_equal_runs[0], least.least_equal_runs[1]
        );
    }
    if !least.comparable {
        text.push_str("; for information, their precision differs");
    } else if a.dtype == "float32" && least.equal_share < SUSPICIOUS {
        text.push_str("; one model in float32 should give the same: look at the settings and versions of both");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use crate::result::{LengthDifference, OutputComparison, SameWork, Variant};

    use super::notes;

    fn variant(backend: &str, dtype: &str) -> Variant {
        Variant { backend: backend.to_owned(), dtype: dtype.to_owned(), quantization: None }
    }

    fn same_work(share: f64, dtype: &str) -> SameWork {
        SameWork {
            workload_sha256: "w".to_owned(),
            weights: "m".to_owned(),
            backends: vec!["candle".to_owned(), "vllm".to_owned()],
            runs: 3,
            requests: 8,
            lengths_equal: true,
            lengths_must_be_equal: true,
            length_differences: Vec::new(),
            outputs: vec![OutputComparison {
                variants: [variant("candle", "float32"), variant("vllm", dtype)],
                comparable: dtype == "float32",
                runs: [1, 2],
                compared_tokens: 16,
                equal_share: share,
                equal_share_mean: share,
                least_equal_runs: ["1".to_owned(), "2".to_owned()],
                least_equal_request: (share < 1.0).then_some(4),
            }],
            runs_not_compared: 0,
        }
    }

    #[test]
    fn equal_work_is_two_lines() {
        assert!(notes(&[]).is_empty());
        let said = notes(&[same_work(1.0, "float32"), same_work(0.99999, "float32")]);
        assert_eq!(said[0], "same work: candle, vllm ran 2 workloads with the same prompts and equal lengths (6 runs)");
        let expected = "same tokens: candle (float32) and vllm (float32): 99.9 % of the first 16 greedy tokens of each request are equal \
                        (least in request 4 of 1 and 2)";
        assert_eq!((said[1].as_str(), said.len()), (expected, 2));
    }

    #[test]
    fn little_agreement_is_explained_or_asked_about() {
        assert!(notes(&[same_work(0.9, "float32")])[1].ends_with("look at the settings and versions of both"));
        assert!(notes(&[same_work(0.9, "bfloat16")])[1].ends_with("for information, their precision differs"));
    }

    #[test]
    fn other_lengths_are_said_with_request_and_numbers() {
        let mut same = same_work(1.0, "float32");
        same.lengths_equal = false;
        same.length_differences = vec![LengthDifference {
            request_index: 3,
            runs: ["1".to_owned(), "2".to_owned()],
            prompt_tokens: [Some(5), Some(5)],
            output_tokens: [Some(6), None],
        }];
        let expected =
            "different work: request 3 has 5 prompt and 6 generated tokens in 1, 5 prompt and no generated tokens in 2";
        assert_eq!(notes(&[same])[0], expected);
    }
}

use llem_protocol::RequestRecord;

use super::{COMPARED_TOKENS, Generated, KEPT_OUTPUTS, Output, RunWork, SameWork, SameWorkLedger, Variant};

/// As it is read from a run's table.
fn output(records: &[RequestRecord]) -> Output {
    let generated = |r: &RequestRecord| Generated {
        pass: r.pass,
        index: r.index,
        prompt_tokens: r.prompt_tokens,
        output_ids: r.output_ids.clone(),
    };
    Output::of(&records.iter().map(generated).collect::<Vec<_>>())
}

fn record(pass: u32, index: u64, prompt_tokens: u32, ids: &[u32]) -> RequestRecord {
    let token_ns = vec![1; ids.len()];
    RequestRecord { pass, index, batch: None, prompt_tokens, submit_ns: 0, token_ns, output_ids: ids.to_vec() }
}

fn variant(backend: &str, dtype: &str) -> Variant {
    Variant { backend: backend.to_owned(), dtype: dtype.to_owned(), quantization: None }
}

/// A run of two requests with 3 and 5 prompt tokens.
fn run(run_id: &str, variant: Variant, first: &[u32], second: &[u32]) -> RunWork {
    RunWork {
        run_id: run_id.to_owned(),
        workload_sha256: "w".to_owned(),
        weights: "synthetic@1".to_owned(),
        variant,
        greedy: true,
        exact: true,
        output: output(&[record(4, 1, 5, second), record(4, 0, 3, first), record(5, 0, 3, &[99])]),
    }
}

fn conclude(runs: impl IntoIterator<Item = RunWork>) -> Vec<SameWork> {
    let mut ledger = SameWorkLedger::default();
    runs.into_iter().for_each(|run| ledger.add(run));
    ledger.conclude()
}

#[track_caller]
fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-12, "{a} {b}");
}

#[test]
fn the_first_tokens_of_every_request_are_compared() {
    let long: Vec<u32> = (0..40).collect();
    let mut other = long.clone();
    // The last that counts, and the first that does not.
    other[COMPARED_TOKENS - 1] = 1000;
    other[COMPARED_TOKENS] = 1000;
    let found = conclude([
        run("1", variant("candle", "float32"), &long, &[7, 8]),
        run("2", variant("pytorch", "float32"), &other, &[7, 8]),
        run("3", variant("pytorch", "float32"), &long, &[7, 8]),
    ]);
    assert_eq!(found.len(), 1);
    let same = &found[0];
    assert_eq!((same.runs, same.requests, same.backends.join(" ")), (3, 2, "candle pytorch".to_owned()));
    assert!(same.lengths_equal && !same.is_different_work() && same.length_differences.is_empty());
    let [outputs] = same.outputs.as_slice() else { panic!("{same:?}") };
    assert_eq!((outputs.runs, outputs.comparable, outputs.compared_tokens), ([1, 2], true, 16));
    close(outputs.equal_share, 17.0 / 18.0);
    close(outputs.equal_share_mean, 35.0 / 36.0);
    assert_eq!(outputs.least_equal_runs, ["1", "2"]);
    assert_eq!(outputs.least_equal_request, Some(0));
}

#[test]
fn other_lengths_are_found_with_request_and_both_numbers() {
    let found = conclude([
        run("1", variant("candle", "float32"), &[1, 2], &[7, 8]),
        run("2", variant("pytorch", "float32"), &[1, 2], &[7, 8, 9]),
    ]);
    assert!(found[0].is_different_work());
    let [difference] = found[0].length_differences.as_slice() else { panic!("{found:?}") };
    assert_eq!((difference.request_index, difference.runs.join(" ")), (1, "1 2".to_owned()));
    assert_eq!((difference.prompt_tokens, difference.output_tokens), ([Some(5), Some(5)], [Some(2), Some(3)]));
    close(found[0].outputs[0].equal_share, 4.0 / 5.0);
    let mut fewer = run("2", variant("pytorch", "float32"), &[1, 2], &[]);
    fewer.output = output(&[record(0, 0, 3, &[1, 2])]);
    let found = conclude([run("1", variant("candle", "float32"), &[1, 2], &[7]), fewer]);
    assert_eq!(found[0].length_differences[0].output_tokens, [Some(1), None]);
}

#[test]
fn lengths_may_differ_where_the_end_of_sequence_is_obeyed() {
    let free = |id: &str, backend: &str, ids: &[u32]| RunWork {
        exact: false,
        ..run(id, variant(backend, "float32"), ids, &[])
    };
    let found = conclude([free("1", "candle", &[1]), free("2", "vllm", &[1, 2])]);
    assert!(!found[0].lengths_equal && !found[0].lengths_must_be_equal && !found[0].is_different_work());
}

#[test]
fn sampled_tokens_are_not_compared_and_their_lengths_are() {
    let sampled =
        |id: &str, backend: &str| RunWork { greedy: false, ..run(id, variant(backend, "float32"), &[1], &[2]) };
    let found = conclude([sampled("1", "candle"), sampled("2", "vllm")]);
    assert!(found[0].lengths_equal && found[0].outputs.is_empty() && found[0].runs == 2);
}

#[test]
fn other_precision_is_for_information() {
    let quantised = Variant { quantization: Some("fp8".to_owned()), ..variant("vllm", "float32") };
    let runs = [variant("candle", "float32"), variant("pytorch", "bfloat16"), quantised];
    let found = conclude(runs.into_iter().enumerate().map(|(n, variant)| run(&n.to_string(), variant, &[1], &[2])));
    let outputs = &found[0].outputs;
    assert_eq!(outputs.len(), 3);
    assert!(outputs.iter().all(|pair| !pair.comparable), "{outputs:?}");
    assert_eq!(outputs[1].variants[1].to_string(), "vllm (float32, fp8)");
}

#[test]
fn one_backend_or_other_work_is_nothing_to_compare() {
    let one = || run("1", variant("candle", "float32"), &[1], &[2]);
    assert_eq!(conclude([one(), one()]), []);
    let elsewhere = RunWork { workload_sha256: "x".to_owned(), ..run("2", variant("vllm", "float32"), &[1], &[2]) };
    assert_eq!(conclude([one(), elsewhere]), []);
    let other_model = RunWork { weights: "m".to_owned(), ..run("2", variant("vllm", "float32"), &[1], &[2]) };
    assert_eq!(conclude([one(), other_model]), []);
}

#[test]
fn outputs_that_never_repeat_do_not_fill_the_memory() {
    let ids = |n: u32| vec![n; COMPARED_TOKENS];
    let same = (0..1000).map(|n| run(&format!("a{n}"), variant("candle", "float32"), &ids(1), &ids(2)));
    let different = (0..1000).map(|n| run(&format!("b{n}"), variant("vllm", "float32"), &ids(n), &ids(2)));
    let found = conclude(same.chain(different));
    assert_eq!((found[0].runs, found[0].runs_not_compared), (2000, 1000 - KEPT_OUTPUTS as u64));
    assert_eq!(found[0].outputs[0].runs, [1000, KEPT_OUTPUTS as u64]);
    close(found[0].outputs[0].equal_share, 0.5);
}

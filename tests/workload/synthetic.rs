use llem::workload::{LengthSpec, OrderSpec, TokenizerSource, Workload, WorkloadError, WorkloadRequest, prepare};
use llem_protocol::WorkloadLine;

use crate::fixtures::{Scene, read_lines, request, sha256};

/// A model of 100 ids of which two are special.
fn model() -> TokenizerSource {
    TokenizerSource { tokenizer_json: None, vocab_size: 100, excluded_ids: vec![0, 99, 4000] }
}

fn make(scene: &Scene, change: impl FnOnce(&mut WorkloadRequest<'_>)) -> Result<Workload, WorkloadError> {
    let study = scene.study();
    let mut request = request("synthetic", &study);
    change(&mut request);
    prepare(&request, &model(), &scene.cache(), &scene.offline_hub())
}

fn lines(scene: &Scene, change: impl FnOnce(&mut WorkloadRequest<'_>)) -> Vec<WorkloadLine> {
    read_lines(&make(scene, change).unwrap().path)
}

#[test]
fn lengths_are_exact_and_special_ids_never_drawn() {
    let scene = Scene::new();
    let workload = make(&scene, |request| {
        request.n = Some(50);
        request.input_tokens = Some(LengthSpec::Exact(33));
    });
    let workload = workload.unwrap();
    let lines = read_lines(&workload.path);
    assert_eq!((workload.requests, workload.prompt_tokens, workload.output_tokens), (50, 50 * 33, 50 * 4));
    assert_eq!(workload.max_total_tokens, 37);
    assert!(lines.iter().all(|line| line.prompt_ids.len() == 33 && line.output_tokens == 4));
    assert!(lines.iter().map(|line| line.index).eq(0..50));
    let mut ids: Vec<u32> = lines.into_iter().flat_map(|line| line.prompt_ids).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.into_iter().eq(1..99), "every ordinary id and no other");
}

#[test]
fn eight_requests_of_64_tokens_by_default() {
    let scene = Scene::new();
    let lines = lines(&scene, |_| {});
    assert_eq!(lines.len(), 8);
    assert!(lines.iter().all(|line| line.prompt_ids.len() == 64));
}

#[test]
fn fewer_requests_are_the_first_of_more() {
    let scene = Scene::new();
    let ragged = |n| {
        move |request: &mut WorkloadRequest<'_>| {
            request.n = Some(n);
            request.input_tokens = Some(LengthSpec::Uniform { min: 1, max: 40 });
            request.output_tokens = LengthSpec::Uniform { min: 2, max: 9 };
        }
    };
    let (few, many) = (lines(&scene, ragged(8)), lines(&scene, ragged(16)));
    assert_eq!(few, many[..8]);
    let lengths: Vec<usize> = many.iter().map(|line| line.prompt_ids.len()).collect();
    assert!(lengths.iter().any(|length| *length != lengths[0]), "{lengths:?}");
    assert!(many.iter().all(|line| (2..=9).contains(&line.output_tokens)));
}

#[test]
fn equal_seeds_give_equal_bytes_and_other_seeds_other_ones() {
    let (one, two) = (Scene::new(), Scene::new());
    let first = make(&one, |_| {}).unwrap();
    let again = make(&two, |_| {}).unwrap();
    assert_eq!(first.sha256, again.sha256);
    assert_eq!(sha256(&fs_err::read(&again.path).unwrap()), again.sha256);
    assert_ne!(make(&one, |request| request.seed = 43).unwrap().sha256, first.sha256);
}

/// Published hashes stay comparable only while this one stays: a change of it is a change of every study's work.
#[test]
fn the_workload_of_a_request_never_changes() {
    let scene = Scene::new();
    let workload = make(&scene, |request| {
        request.n = Some(5);
        request.input_tokens = Some(LengthSpec::Uniform { min: 2, max: 12 });
        request.output_tokens = LengthSpec::Uniform { min: 1, max: 8 };
        request.order = OrderSpec::Shuffled;
        request.seed = u64::MAX;
    });
    assert_eq!(workload.unwrap().sha256, "947f53fad21d9f16cc03a5dd418f40d8339130f10eb4a4d981d72880f9cf7380");
}

#[test]
fn orders_move_requests_and_nothing_else() {
    let scene = Scene::new();
    let ordered = |order| {
        lines(&scene, |request| {
            request.n = Some(30);
            request.input_tokens = Some(LengthSpec::Uniform { min: 1, max: 90 });
            request.order = order;
        })
    };
    let content = |mut lines: Vec<WorkloadLine>| {
        lines.sort_by(|a, b| a.prompt_ids.cmp(&b.prompt_ids));
        lines.into_iter().map(|line| (line.prompt_ids, line.output_tokens)).collect::<Vec<_>>()
    };
    let given = ordered(OrderSpec::AsGiven);
    for order in [OrderSpec::Shuffled, OrderSpec::ShortestFirst, OrderSpec::LongestFirst] {
        let moved = ordered(order);
        assert!(moved.iter().map(|line| line.index).eq(0..30));
        assert_ne!(moved, given);
        match order {
            OrderSpec::ShortestFirst => assert!(moved.is_sorted_by_key(|line| line.prompt_ids.len())),
            OrderSpec::LongestFirst => assert!(moved.iter().rev().is_sorted_by_key(|line| line.prompt_ids.len())),
            _ => {}
        }
        assert_eq!(content(moved), content(given.clone()));
    }
}

#[test]
fn impossible_requests_are_refused() {
    let scene = Scene::new();
    let refused = |change: fn(&mut WorkloadRequest<'_>)| make(&scene, change).unwrap_err().to_string();
    assert!(refused(|request| request.n = Some(0)).contains("workload.n is 0"));
    let text = refused(|request| request.input_tokens = Some(LengthSpec::Uniform { min: 5, max: 4 }));
    assert!(text.contains("workload.input_tokens"), "{text}");
    assert!(refused(|request| request.output_tokens = LengthSpec::Exact(0)).contains("workload.output_tokens"));
    assert!(refused(|request| request.n = Some(u64::MAX)).contains("lower workload.n"));
    let long = refused(|request| {
        request.n = Some(1);
        request.input_tokens = Some(LengthSpec::Exact(10_000_000));
    });
    assert!(long.contains("request 0 has 10000000 prompt tokens"), "{long}");
}

#[test]
fn a_vocabulary_of_special_ids_has_nothing_to_draw() {
    let scene = Scene::new();
    let study = scene.study();
    let model = TokenizerSource { tokenizer_json: None, vocab_size: 2, excluded_ids: vec![0, 1] };
    let error = prepare(&request("synthetic", &study), &model, &scene.cache(), &scene.offline_hub()).unwrap_err();
    assert!(matches!(error, WorkloadError::EmptyVocabulary { vocab_size: 2 }), "{error}");
}

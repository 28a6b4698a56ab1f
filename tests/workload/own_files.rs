use std::os::unix::fs::PermissionsExt;

use llem::workload::{LengthSpec, OrderSpec, TokenizerSource, Workload, WorkloadError, WorkloadRequest, prepare};

use crate::fixtures::{BEGIN_ID, Scene, VOCABULARY, ascii_ids, byte_tokenizer, read_lines, request, sha256};

const FILE: &str =
    "{\"prompt\": \"abc\"}\n{\"prompt\": \"a longer one\", \"output_tokens\": 7, \"id\": 1}\n{\"prompt\": \"z\"}";

fn make(scene: &Scene, change: impl FnOnce(&mut WorkloadRequest<'_>)) -> Result<Workload, WorkloadError> {
    let study = scene.study();
    let mut request = request("prompts.jsonl", &study);
    change(&mut request);
    prepare(&request, &scene.tokenizer(), &scene.cache(), &scene.offline_hub())
}

fn with_begin(text: &str) -> Vec<u32> {
    [vec![BEGIN_ID], ascii_ids(text)].concat()
}

#[test]
fn prompts_become_the_tokenizers_ids_with_its_special_tokens() {
    let scene = Scene::new();
    let path = scene.write("study/prompts.jsonl", FILE);
    let workload = make(&scene, |_| {}).unwrap();
    let lines = read_lines(&workload.path);
    let ids: Vec<Vec<u32>> = lines.iter().map(|line| line.prompt_ids.clone()).collect();
    assert_eq!(ids, [with_begin("abc"), with_begin("a longer one"), with_begin("z")]);
    assert_eq!(lines.iter().map(|line| line.output_tokens).collect::<Vec<_>>(), [4, 7, 4]);
    assert_eq!((workload.requests, workload.prompt_tokens, workload.output_tokens), (3, 4 + 13 + 2, 15));
    assert_eq!(workload.max_total_tokens, 20);
    let dataset = workload.dataset;
    assert_eq!(dataset.name, "prompts.jsonl");
    assert_eq!(dataset.source.as_deref(), path.to_str());
    assert_eq!(dataset.sha256, Some(sha256(FILE.as_bytes())));
    assert_eq!((dataset.available, dataset.cut_prompts), (Some(3), 0));
    assert_eq!(dataset.tokenizer_sha256, Some(sha256(byte_tokenizer().to_string().as_bytes())));
}

#[test]
fn long_prompts_are_cut_at_their_end_and_counted() {
    let scene = Scene::new();
    scene.write("study/prompts.jsonl", FILE);
    let workload = make(&scene, |request| request.input_tokens = Some(LengthSpec::Exact(4))).unwrap();
    let ids: Vec<Vec<u32>> = read_lines(&workload.path).into_iter().map(|line| line.prompt_ids).collect();
    assert_eq!(ids, [with_begin("abc"), with_begin("a l"), with_begin("z")]);
    assert_eq!(workload.dataset.cut_prompts, 1);
    let range = make(&scene, |request| request.input_tokens = Some(LengthSpec::Uniform { min: 1, max: 4 }));
    assert!(range.unwrap_err().to_string().contains("input_tokens is a range"));
}

#[test]
fn n_takes_the_first_and_never_more_than_there_are() {
    let scene = Scene::new();
    scene.write("study/prompts.jsonl", FILE);
    let two = make(&scene, |request| request.n = Some(2)).unwrap();
    assert_eq!(read_lines(&two.path).len(), 2);
    assert_eq!(two.dataset.available, Some(3));
    let error = make(&scene, |request| request.n = Some(4)).unwrap_err();
    assert_eq!(error.to_string(), "data set `prompts.jsonl` has 3 prompts, and workload.n asks for 4");
}

#[test]
fn orders_go_by_tokens() {
    let scene = Scene::new();
    scene.write("study/prompts.jsonl", FILE);
    let workload = make(&scene, |request| request.order = OrderSpec::ShortestFirst).unwrap();
    let lengths: Vec<usize> = read_lines(&workload.path).iter().map(|line| line.prompt_ids.len()).collect();
    assert_eq!(lengths, [2, 4, 13]);
}

#[test]
fn drawn_output_lengths_are_the_same_for_fewer_requests() {
    let scene = Scene::new();
    scene.write("study/prompts.jsonl", "{\"prompt\": \"abc\"}\n".repeat(40));
    let outputs = |n| {
        let workload = make(&scene, |request| {
            request.n = Some(n);
            request.output_tokens = LengthSpec::Uniform { min: 1, max: 50 };
        });
        read_lines(&workload.unwrap().path).iter().map(|line| line.output_tokens).collect::<Vec<_>>()
    };
    let (few, all) = (outputs(10), outputs(40));
    assert_eq!(few, all[..10]);
    assert!(all.iter().all(|tokens| (1..=50).contains(tokens)) && all.iter().any(|tokens| *tokens != all[0]));
}

#[test]
fn every_bad_line_is_reported_with_its_number() {
    let scene = Scene::new();
    let mut bytes =
        b"{\"prompt\":\"a\"}\n\n[1]\n{\"prompt\":\"\xff\"}\n{\"prompt\":\"b\"}\n{\"text\":\"c\"}\n".to_vec();
    let path = scene.write("study/prompts.jsonl", &bytes);
    let Err(WorkloadError::BadLines(bad)) = make(&scene, |_| {}) else { panic!("bad lines were accepted") };
    assert_eq!((bad.path.as_path(), bad.count), (path.as_path(), 4));
    assert_eq!(bad.shown.iter().map(|line| line.line).collect::<Vec<_>>(), [2, 3, 4, 6]);
    bytes.extend_from_slice("nonsense\n".repeat(30).as_bytes());
    scene.write("study/prompts.jsonl", &bytes);
    let text = make(&scene, |_| {}).unwrap_err().to_string();
    assert!(text.contains("has 34 lines that are not a prompt:\n  line 2: blank\n  line 3: "), "{text}");
    assert!(text.ends_with("\n  and 14 more"), "{text}");
}

#[test]
fn a_line_beyond_the_limit_is_an_error_and_the_next_line_is_still_read() {
    let scene = Scene::new();
    let long = "a".repeat(40 * 1024 * 1024);
    scene.write("study/prompts.jsonl", format!("{{\"prompt\":\"{long}\"}}\nx\n{{\"prompt\":\"b\"}}\n"));
    let Err(WorkloadError::BadLines(bad)) = make(&scene, |_| {}) else { panic!("a long line was accepted") };
    assert_eq!(bad.shown.iter().map(|line| line.line).collect::<Vec<_>>(), [1, 2]);
    assert!(bad.shown[0].reason.contains("longer than 16777216 bytes"));
}

#[test]
fn an_empty_file_and_an_unknown_name_are_errors() {
    let scene = Scene::new();
    scene.write("study/prompts.jsonl", "");
    let text = make(&scene, |_| {}).unwrap_err().to_string();
    assert!(text.contains("prompts.jsonl has no prompts"), "{text}");
    let text = make(&scene, |request| request.dataset = "aienergyscor").unwrap_err().to_string();
    assert!(text.contains("`aienergyscor` is not built in (synthetic, aienergyscore)"), "{text}");
    assert!(text.contains("study/aienergyscor"), "{text}");
}

#[test]
fn text_needs_a_tokenizer_that_belongs_to_the_model() {
    let scene = Scene::new();
    scene.write("study/prompts.jsonl", FILE);
    let study = scene.study();
    let with = |tokenizer_json, vocab_size| {
        let source = TokenizerSource { tokenizer_json, vocab_size, excluded_ids: Vec::new() };
        prepare(&request("prompts.jsonl", &study), &source, &scene.cache(), &scene.offline_hub())
    };
    let text = with(None, VOCABULARY).unwrap_err().to_string();
    assert!(text.contains("has no tokenizer.json") && text.contains("dataset: synthetic"), "{text}");
    let good = scene.tokenizer().tokenizer_json;
    let error = with(good.clone(), VOCABULARY - 1).unwrap_err();
    let outside = WorkloadError::TokenOutsideVocabulary {
        path: good.unwrap(),
        id: VOCABULARY - 1,
        position: None,
        vocab_size: VOCABULARY - 1,
    };
    assert_eq!(error.to_string(), outside.to_string());
    let broken = with(Some(scene.write("broken.json", "{\"model\": 3}")), VOCABULARY).unwrap_err();
    assert!(matches!(broken, WorkloadError::Tokenizer { .. }), "{broken}");
}

#[test]
fn an_added_token_outside_the_model_is_an_error_only_where_it_occurs() {
    let scene = Scene::new();
    let mut tokenizer = byte_tokenizer();
    let mut added = tokenizer["added_tokens"][0].clone();
    added["id"] = 300.into();
    added["content"] = "<extra>".into();
    tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    let path = scene.write("extra.json", tokenizer.to_string());
    let source = TokenizerSource { tokenizer_json: Some(path), vocab_size: VOCABULARY, excluded_ids: Vec::new() };
    let study = scene.study();
    let make = || prepare(&request("prompts.jsonl", &study), &source, &scene.cache(), &scene.offline_hub());
    scene.write("study/prompts.jsonl", FILE);
    assert_eq!(make().unwrap().requests, 3);
    scene.write("study/prompts.jsonl", format!("{FILE}\n{{\"prompt\": \"a<extra>b\"}}"));
    let text = make().unwrap_err().to_string();
    assert!(text.contains("for prompt 4") && text.contains("belongs to another model"), "{text}");
}

#[test]
fn the_workload_file_is_shared_checked_and_rebuilt_when_damaged() {
    let scene = Scene::new();
    scene.write("study/prompts.jsonl", FILE);
    let first = make(&scene, |_| {}).unwrap();
    let good = fs_err::read(&first.path).unwrap();
    assert_eq!(first.path, scene.cache().join("workloads-v1").join(format!("{}.jsonl", sha256(&good))));
    assert_eq!(fs_err::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o644);
    let written = fs_err::metadata(&first.path).unwrap().modified().unwrap();
    assert_eq!(make(&scene, |_| {}).unwrap(), first);
    assert_eq!(fs_err::metadata(&first.path).unwrap().modified().unwrap(), written, "a good file is left alone");
    for damage in [&good[..good.len() - 1], &[b' ', good[1], b' '], b""] {
        let same_length = [damage, &vec![b'x'; good.len() - damage.len()]].concat();
        for bytes in [damage, &same_length] {
            fs_err::write(&first.path, bytes).unwrap();
            assert_eq!(make(&scene, |_| {}).unwrap(), first);
            assert_eq!(fs_err::read(&first.path).unwrap(), good);
        }
    }
}

#[test]
fn writers_at_the_same_time_do_not_disturb_each_other() {
    let scene = Scene::new();
    scene.write("study/prompts.jsonl", FILE);
    let made: Vec<Workload> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8).map(|_| scope.spawn(|| make(&scene, |_| {}).unwrap())).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert!(made.iter().all(|workload| *workload == made[0]));
    assert_eq!(sha256(&fs_err::read(&made[0].path).unwrap()), made[0].sha256);
    for folder in ["workloads-v1/requests", "workloads-v1"] {
        let mut names = fs_err::read_dir(scene.cache().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.all(|name| !name.to_string_lossy().starts_with(".tmp")), "a temporary file is left");
    }
}

/// The note of a made workload must depend on everything that decides its content.
#[test]
fn a_workload_made_before_is_found_and_no_other() {
    let scene = Scene::new();
    scene.write("study/prompts.jsonl", FILE);
    let first = make(&scene, |request| request.input_tokens = Some(LengthSpec::Exact(4))).unwrap();
    assert_eq!(notes(&scene), 1);
    assert_eq!(make(&scene, |request| request.input_tokens = Some(LengthSpec::Exact(4))).unwrap(), first);
    assert_eq!(notes(&scene), 1, "the second time it was found");
    let changes: [fn(&mut WorkloadRequest<'_>); 5] = [
        |_| {},
        |request| request.n = Some(2),
        |request| request.output_tokens = LengthSpec::Exact(5),
        |request| request.order = OrderSpec::LongestFirst,
        |request| request.input_tokens = Some(LengthSpec::Exact(3)),
    ];
    let mut hashes: Vec<String> = changes.iter().map(|change| make(&scene, change).unwrap().sha256).collect();
    scene.write("study/prompts.jsonl", FILE.replace("abc", "abd"));
    hashes.push(make(&scene, |_| {}).unwrap().sha256);
    let without_begin = byte_tokenizer().to_string().replace("\"ids\":[0]", "\"ids\":[5]");
    scene.write("tokenizer.json", without_begin);
    hashes.push(make(&scene, |_| {}).unwrap().sha256);
    hashes.push(first.sha256);
    let count = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!((hashes.len(), notes(&scene)), (count, count));
}

#[test]
fn a_broken_note_is_written_anew() {
    let scene = Scene::new();
    scene.write("study/prompts.jsonl", FILE);
    let first = make(&scene, |_| {}).unwrap();
    let folder = scene.cache().join("workloads-v1/requests");
    let note = fs_err::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let good = fs_err::read(&note).unwrap();
    for broken in ["", "{}", "{\"workload_sha256\":\"../../x\",\"cut_prompts\":0}"] {
        fs_err::write(&note, broken).unwrap();
        assert_eq!(make(&scene, |_| {}).unwrap(), first);
        assert_eq!(fs_err::read(&note).unwrap(), good);
    }
}

fn notes(scene: &Scene) -> usize {
    fs_err::read_dir(scene.cache().join("workloads-v1/requests")).unwrap().count()
}

#[test]
fn a_leading_tilde_is_the_home_directory() {
    let scene = Scene::new();
    let error = make(&scene, |request| request.dataset = "~/no/such/prompts.jsonl").unwrap_err();
    let WorkloadError::UnknownDataset { path, .. } = error else { panic!("{error}") };
    assert_eq!(path, etcetera::home_dir().unwrap().join("no/such/prompts.jsonl"));
}

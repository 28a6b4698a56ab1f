use llem::hub::{Hub, HubError};
use llem::workload::{DatasetManifest, Workload, WorkloadError, WorkloadRequest, prepare_from};
use parquet::basic::{Compression, ZstdLevel};

use crate::fixtures::{
    REVISION, Scene, ascii_ids, canonical, manifest, parquet_file, prompts, read_lines, request, sha256,
};
use crate::server::{Reply, Server, closed_url};

const URL_PATH: &str = "/datasets/org/tiny/resolve/0123456789abcdef0123456789abcdef01234567/data/train.parquet";

fn make_with(
    scene: &Scene,
    manifest: DatasetManifest,
    hub: &Hub,
    change: impl FnOnce(&mut WorkloadRequest<'_>),
) -> Result<Workload, WorkloadError> {
    let study = scene.study();
    let mut request = request("tiny", &study);
    change(&mut request);
    prepare_from(&[manifest], &request, &scene.tokenizer(), &scene.cache(), hub)
}

fn make(scene: &Scene, hub: &Hub) -> Result<Workload, WorkloadError> {
    make_with(scene, manifest(), hub, |_| {})
}

/// A server with the data set as a Parquet file of the given form.
fn publish(compression: Compression) -> Server {
    let file = parquet_file(&prompts(), "text", compression);
    Server::start(move |path| if path == URL_PATH { Reply::file(&file) } else { Reply::status(404) })
}

fn assert_is_the_data_set(workload: &Workload, n: usize) {
    let lines = read_lines(&workload.path);
    assert_eq!(lines.len(), n);
    for (line, prompt) in lines.iter().zip(prompts()) {
        assert_eq!(line.prompt_ids[1..], ascii_ids(prompt.trim()));
    }
    let dataset = &workload.dataset;
    assert_eq!((dataset.name.as_str(), dataset.source.as_deref()), ("tiny", Some("org/tiny")));
    assert_eq!((dataset.revision.as_deref(), dataset.licence.as_deref()), (Some(REVISION), Some("CC0-1.0")));
    assert_eq!((dataset.sha256.clone(), dataset.available), (Some(manifest().sha256), Some(10)));
}

#[test]
fn a_data_set_is_fetched_once_and_then_read_from_the_cache() {
    for compression in [Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default()), Compression::UNCOMPRESSED] {
        let scene = Scene::new();
        let server = publish(compression);
        let first = make(&scene, &scene.hub(&server.url)).unwrap();
        assert_is_the_data_set(&first, 4);
        assert_eq!(make(&scene, &scene.offline_hub()).unwrap(), first);
        assert_eq!(server.seen().len(), 1);
        let folder = scene.cache().join("datasets-v1/tiny");
        let cached = fs_err::read_to_string(folder.join(REVISION).join("prompts.jsonl")).unwrap();
        assert_eq!(cached, canonical(&prompts()));
        assert_eq!(fs_err::read_dir(folder).unwrap().count(), 1, "the download itself is not kept");
    }
}

#[test]
fn n_is_the_manifests_default_up_to_all_and_not_more() {
    let scene = Scene::new();
    let hub = scene.hub(&publish(Compression::SNAPPY).url);
    let all = make_with(&scene, manifest(), &hub, |request| request.n = Some(10)).unwrap();
    assert_is_the_data_set(&all, 10);
    let more = make_with(&scene, manifest(), &hub, |request| request.n = Some(11)).unwrap_err();
    assert!(more.to_string().contains("has 10 prompts, and workload.n asks for 11"), "{more}");
}

#[test]
fn a_file_with_other_content_is_refused_and_not_kept() {
    let scene = Scene::new();
    let server = publish(Compression::SNAPPY);
    let mut reordered = prompts();
    reordered.swap(0, 9);
    let other = DatasetManifest { sha256: sha256(canonical(&reordered).as_bytes()), ..manifest() };
    let error = make_with(&scene, other, &scene.hub(&server.url), |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, WorkloadError::WrongContent { found_prompts: 10, .. }), "{text}");
    assert!(text.contains(&format!("{}{URL_PATH} is not data set `tiny`", server.url)), "{text}");
    assert_eq!(fs_err::read_dir(scene.cache().join("datasets-v1/tiny")).unwrap().count(), 0);
}

#[test]
fn what_is_not_a_parquet_file_with_that_column_is_refused() {
    let scene = Scene::new();
    let no_column = parquet_file(&prompts(), "prompt", Compression::SNAPPY);
    let whole = parquet_file(&prompts(), "text", Compression::SNAPPY);
    let not_text = DatasetManifest { column: "id".into(), ..manifest() };
    let cases = [
        (no_column, manifest(), "no such column"),
        (whole[..whole.len() - 20].to_vec(), manifest(), "tiny"),
        (b"<html>".to_vec(), manifest(), "tiny"),
        (whole, not_text, "row 1 is not text"),
    ];
    for (bytes, manifest, expected) in cases {
        let server = Server::start(move |_| Reply::file(&bytes));
        let error = make_with(&scene, manifest, &scene.hub(&server.url), |_| {}).unwrap_err();
        assert!(matches!(error, WorkloadError::Parquet { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Whatever is broken in a file, the outcome is the data set or an error, never other prompts and never a crash.
#[test]
fn damaged_bytes_are_survived() {
    let scene = Scene::new();
    let hub = scene.offline_hub();
    let good = parquet_file(&prompts(), "text", Compression::SNAPPY);
    let expected = {
        scene.write("cache/datasets-v1/tiny/copy.parquet", &good);
        make(&scene, &hub).unwrap().sha256
    };
    let mut refused = 0;
    for position in (0..good.len()).step_by(9) {
        fs_err::remove_dir_all(scene.cache().join("datasets-v1")).unwrap();
        let mut damaged = good.clone();
        damaged[position] ^= 0x80;
        scene.write("cache/datasets-v1/tiny/copy.parquet", damaged);
        match make(&scene, &hub) {
            Ok(workload) => assert_eq!(workload.sha256, expected, "byte {position}"),
            Err(WorkloadError::Parquet { .. } | WorkloadError::WrongContent { .. }) => refused += 1,
            Err(error) => panic!("byte {position}: {error}"),
        }
    }
    assert!(refused > good.len() / 30, "{refused} of {}", good.len());
}

#[test]
fn a_damaged_cache_is_made_anew() {
    let scene = Scene::new();
    let server = publish(Compression::SNAPPY);
    let hub = scene.hub(&server.url);
    let first = make(&scene, &hub).unwrap();
    let cached = scene.cache().join("datasets-v1/tiny").join(REVISION).join("prompts.jsonl");
    fs_err::write(&cached, "{\"prompt\":\"other\"}\n").unwrap();
    assert_eq!(make(&scene, &hub).unwrap(), first);
    assert_eq!(fs_err::read_to_string(&cached).unwrap(), canonical(&prompts()));
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn without_network_and_copy_the_error_says_where_to_put_one() {
    let scene = Scene::new();
    for hub in [scene.offline_hub(), scene.hub(&closed_url())] {
        let error = make(&scene, &hub).unwrap_err();
        let WorkloadError::Unavailable { source, .. } = &error else { panic!("{error}") };
        assert!(matches!(**source, HubError::Offline { .. }), "{source}");
        let place = scene.cache().join("datasets-v1/tiny/tiny.jsonl");
        assert!(error.to_string().contains(place.to_str().unwrap()), "{error}");
    }
}

#[test]
fn local_copies_of_either_form_are_found_in_every_place() {
    let published = publish(Compression::SNAPPY);
    let file = parquet_file(&prompts(), "text", Compression::SNAPPY);
    let as_text: String = prompts().iter().map(|text| serde_json::json!({"text": text}).to_string() + "\r\n").collect();
    let snapshot = format!("hf/datasets--org--tiny/snapshots/{REVISION}/data/train.parquet");
    let copies: [(&str, &[u8]); 5] = [
        ("local/tiny.jsonl", canonical(&prompts()).leak().as_bytes()),
        ("local/tiny.parquet", &file),
        ("cache/datasets-v1/tiny/anything.parquet", &file),
        ("cache/datasets-v1/tiny/anything.jsonl", as_text.as_bytes()),
        (&snapshot, &file),
    ];
    for (name, content) in copies {
        let scene = Scene::new();
        scene.write(name, content);
        let mut settings = scene.hub_settings(&published.url);
        settings.datasets_dir = Some(scene.folder.path().join("local"));
        assert_is_the_data_set(&make(&scene, &Hub::new(settings)).unwrap(), 4);
    }
    assert_eq!(published.seen(), [], "a local copy needs no network");
}

#[test]
fn a_local_copy_with_other_content_is_named_and_not_passed_over() {
    let published = publish(Compression::SNAPPY);
    for content in [
        canonical(&prompts()[..9]),
        canonical(&prompts()).replace("Prompt 3", "Prompt 4"),
        format!("{{\"_provenance\": \"elsewhere\"}}\n{}", canonical(&prompts())),
    ] {
        let scene = Scene::new();
        let path = scene.write("cache/datasets-v1/tiny/copy.jsonl", content);
        let text = make(&scene, &scene.hub(&published.url)).unwrap_err().to_string();
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
    assert_eq!(published.seen(), []);
}

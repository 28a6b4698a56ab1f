//! The list of the workloads of a study, for machines that do not tokenise them again.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Workload;

/// Which experiment has which workload; the paths of their files are names beside the list.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// Places in `workloads`.
    experiments: BTreeMap<String, usize>,
    workloads: Vec<Workload>,
}

/// Name of a workload's file.
pub(crate) fn file_name(workload: &Workload) -> String {
    format!("{}.jsonl", workload.sha256)
}

/// The list as a file.
pub(crate) fn write_list<'a>(of: impl Iterator<Item = (&'a str, &'a Workload)>) -> io::Result<Vec<u8>> {
    let mut list = List { experiments: BTreeMap::new(), workloads: Vec::new() };
    for (experiment, workload) in of {
        let named = Workload { path: file_name(workload).into(), ..workload.clone() };
        let known = list.workloads.iter().position(|known| *known == named);
        let place = known.unwrap_or_else(|| {
            list.workloads.push(named);
            list.workloads.len() - 1
        });
        list.experiments.insert(experiment.to_owned(), place);
    }
    Ok(serde_json::to_vec_pretty(&list)?)
}

/// Reads a list; the files are beside it.
pub(crate) fn read_list(path: &Path) -> io::Result<HashMap<String, Arc<Workload>>> {
    let list: List = serde_json::from_slice(&fs_err::read(path)?)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let placed = |workload: Workload| {
        let path: PathBuf = directory.join(file_name(&workload));
        Arc::new(Workload { path, ..workload })
    };
    let workloads: Vec<_> = list.workloads.into_iter().map(placed).collect();
    let found = list.experiments.into_iter().map(|(experiment, place)| {
        let workload = workloads.get(place).cloned();
        workload.map(|workload| (experiment, workload))
    });
    found.collect::<Option<_>>().ok_or_else(|| io::Error::other(format!("{}: it is not consistent", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(sha256: &str) -> Workload {
        Workload {
            path: "/somewhere/else.jsonl".into(),
            sha256: sha256.to_owned(),
            requests: 2,
            prompt_tokens: 3,
            output_tokens: 4,
            max_total_tokens: 5,
            dataset: crate::workload::DatasetProvenance::default(),
        }
    }

    #[test]
    fn a_list_is_read_as_it_was_written_but_for_the_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list.json");
        let (a, b) = (workload("aa"), workload("bb"));
        let text = write_list([("e1", &a), ("e2", &b), ("e3", &a)].into_iter()).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("somewhere"));
        fs_err::write(&path, &text).unwrap();
        let found = read_list(&path).unwrap();
        let expected = Workload { path: directory.path().join("aa.jsonl"), ..a };
        assert_eq!((found.len(), found["e3"].as_ref(), &found["e2"].sha256), (3, &expected, &"bb".to_owned()));
        fs_err::write(&path, String::from_utf8(text).unwrap().replace("\"e2\": 1", "\"e2\": 9")).unwrap();
        assert!(read_list(&path).unwrap_err().to_string().contains("not consistent"));
    }
}

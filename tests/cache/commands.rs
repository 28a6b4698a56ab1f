//! `llem cache` as a user meets it.

use serde_json::Value;

use super::harness::{Kitchen, Machine};

#[test]
fn an_empty_cache_says_where_it_would_be() {
    let kitchen = Kitchen::new();
    let (code, stdout, stderr) = kitchen.run(&["cache", "ls"]);
    assert_eq!((code, stdout.as_str()), (0, ""));
    assert!(stderr.contains(&format!("no entries in {}", kitchen.cache_dir().display())), "{stderr}");
    for command in ["verify", "prune"] {
        assert_eq!(kitchen.run(&["cache", command]).0, 0);
    }
    assert!(!kitchen.cache_dir().exists(), "looking makes nothing");
}

#[test]
fn the_list_fits_eighty_columns_and_json_has_everything() {
    let kitchen = Kitchen::new();
    let machine = Machine::with_model("Llama-3.1-70B-Instruct");
    drop(kitchen.lease(&machine));
    let (code, stdout, _) = kitchen.run(&["cache", "ls"]);
    assert_eq!(code, 0);
    assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
    let key = machine.key();
    let words = ["tensorrt", key.short(), "1.2.1", "H100", "65.7 kB", "312", "48211", "1 entry, 65.7 kB"];
    assert!(words.iter().all(|word| stdout.contains(word)), "{stdout}");
    let (_, stdout, _) = kitchen.run(&["cache", "ls", "--format", "json"]);
    let list: Value = serde_json::from_str(&stdout).unwrap();
    let entry = &list["entries"][0];
    assert_eq!(entry["manifest"]["inputs"]["software"]["tensorrt"], "10.14.1");
    assert_eq!(entry["manifest"]["inputs"]["settings"]["builder_optimization_level"], Value::Null);
    assert_eq!((&entry["manifest"]["build_energy_j"], &entry["kind"]), (&48_211.0.into(), &"tensorrt-engine".into()));
    assert_eq!(entry["manifest"]["key"], machine.key().hex());
}

#[test]
fn verify_finds_what_is_damaged_and_removes_it_when_asked() {
    let kitchen = Kitchen::new();
    let (good, bad) = (Machine::usual(), Machine::with_model("bad"));
    drop((kitchen.lease(&good), kitchen.lease(&bad)));
    assert_eq!(kitchen.run(&["cache", "verify"]).0, 0);
    fs_err::write(kitchen.bucket().join(bad.key().hex()).join("content/config.json"), "x").unwrap();
    for (arguments, said) in
        [(vec!["cache", "verify"], "--evict` removes it"), (vec!["cache", "verify", "--evict"], "removed")]
    {
        let (code, stdout, stderr) = kitchen.run(&arguments);
        assert_eq!(code, 1);
        assert!(
            stdout.contains(bad.key().short()) && stdout.contains("config.json") && stdout.contains(said),
            "{stdout}"
        );
        assert!(stderr.contains("1 entry whole") && stderr.contains("1 bad"), "{stderr}");
    }
    let (code, stdout, _) = kitchen.run(&["cache", "verify"]);
    assert_eq!((code, stdout.as_str()), (0, ""));
    assert_eq!(kitchen.cache().entries().unwrap().len(), 1);
}

/// Whoever made them may have made anything of them: nothing is followed, waited for, added up beyond all numbers, or shown as it is.
#[test]
fn commands_survive_entries_of_strangers() {
    let kitchen = Kitchen::new();
    let machines = ["one", "two", "three"].map(Machine::with_model);
    for machine in &machines {
        drop(kitchen.lease(machine));
    }
    let entry = |at: usize| kitchen.bucket().join(machines[at].key().hex());
    for at in [0, 1] {
        let path = entry(at).join("manifest.json");
        let mut manifest: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        manifest["size_bytes"] = u64::MAX.into();
        manifest["summary"]["model"] = "\u{1b}[2J\u{9b}31m".into();
        fs_err::write(&path, manifest.to_string()).unwrap();
    }
    let victim = kitchen.path("victim");
    let lock = kitchen.bucket().join(".locks").join(format!("{}.use", machines[2].key().hex()));
    fs_err::remove_file(&lock).unwrap();
    fs_err::os::unix::fs::symlink(&victim, &lock).unwrap();
    for (arguments, expected) in [(vec!["ls"], 0), (vec!["verify"], 1), (vec!["prune", "--all", "--dry-run"], 0)] {
        let (code, stdout, stderr) = kitchen.run(&[vec!["cache"], arguments.clone()].concat());
        assert_eq!(code, expected, "{arguments:?}: {stdout}{stderr}");
        assert!(!stdout.contains(['\u{1b}', '\u{9b}']), "{stdout:?}");
    }
    assert!(!victim.exists());
}

#[test]
fn prune_says_what_it_removes_and_a_dry_run_removes_nothing() {
    let kitchen = Kitchen::new();
    drop(kitchen.lease(&Machine::usual()));
    let used = kitchen.lease(&Machine::with_model("used"));
    let (_, stdout, stderr) = kitchen.run(&["cache", "prune", "--max-size", "0", "--dry-run"]);
    assert_eq!(stdout.matches("would remove tensorrt-engine").count(), 1, "{stdout}");
    assert!(stderr.contains(&format!("{} is in use and stays", used.key().short())), "{stderr}");
    assert_eq!(kitchen.cache().entries().unwrap().len(), 2);
    assert_eq!(kitchen.run(&["cache", "prune", "--older-than", "1d"]).1, "");
    let (code, stdout, stderr) = kitchen.run(&["cache", "prune", "--all"]);
    assert_eq!((code, stdout.lines().count()), (0, 1), "{stdout}{stderr}");
    assert!(stdout.contains(Machine::usual().key().short()), "{stdout}");
    assert!(stderr.contains(&format!("{} is in use and stays", used.key().short())), "{stderr}");
    assert_eq!(kitchen.run(&["cache", "prune", "--max-size", "ten"]).0, 2);
}

#[test]
fn explain_names_the_inputs_that_differ() {
    let kitchen = Kitchen::new();
    let other = Machine { engine: "1.2.2".to_owned(), gpu: "NVIDIA H200".to_owned(), ..Machine::usual() };
    drop((kitchen.lease(&Machine::usual()), kitchen.lease(&other)));
    let (left, right) = (Machine::usual().key().short().to_owned(), other.key().short().to_owned());
    let expected = format!(
        "{left} and {right}: 2 inputs differ\n  software.engine\n    - \"1.2.1\"\n    + \"1.2.2\"\n  \
         target.gpus[0].name\n    - \"NVIDIA H100 80GB HBM3\"\n    + \"NVIDIA H200\"\n"
    );
    assert_eq!(kitchen.run(&["cache", "explain", &left, &right]).1, expected);
    assert_eq!(kitchen.run(&["cache", "explain", &left[..6]]).1, expected, "the nearest other one");
    let (_, json, _) = kitchen.run(&["cache", "explain", &left, &right, "--format", "json"]);
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found[0]["differences"][0]["path"], "software.engine");
    let (code, _, stderr) = kitchen.run(&["cache", "explain", "zz"]);
    assert!(code == 2 && stderr.contains("no entry's key starts with `zz`"), "{stderr}");
    let (code, _, stderr) = kitchen.run(&["cache", "explain", ""]);
    assert!(code == 2 && stderr.contains("is the beginning of several keys"), "{stderr}");
}

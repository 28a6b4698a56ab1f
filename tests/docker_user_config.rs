//! Fields of the user config that show in a container.

use serde_json::{Value, json};

use crate::support::{Bench, docker_text};
use crate::user_config_fields::IN_CONTAINER;

#[test]
fn what_the_user_config_says_of_containers_is_in_them() {
    let Some(bench) = Bench::docker("user-config") else { return };
    let mut bench = bench.long_window();
    let shared = bench.path("shared");
    fs_err::create_dir(&shared).unwrap();
    bench.user = json!({
        "mounts": [
            {"source": shared, "target": "/data/read"},
            {"source": shared, "target": "/data/write", "read_only": false},
        ],
        "env": {"SITE": "somewhere"},
        "devices": ["/dev/full"],
        "cap_add": ["SYS_NICE"],
    });
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    let container: Value = serde_json::from_str(&docker_text(&["inspect", &program.container()])).unwrap();
    program.signal(rustix::process::Signal::INT);
    program.finish().exits(130);
    let container = &container[0];
    let mount = |target: &str| {
        let mounts = container["Mounts"].as_array().unwrap();
        mounts.iter().find(|mount| mount["Destination"] == target).unwrap().clone()
    };
    for field in IN_CONTAINER {
        match field {
            "cap_add" => assert!(container["HostConfig"]["CapAdd"].to_string().contains("SYS_NICE"), "{container:#}"),
            "devices" => assert_eq!(container["HostConfig"]["Devices"][0]["PathOnHost"], "/dev/full"),
            "env" => assert!(container["Config"]["Env"].as_array().unwrap().contains(&json!("SITE=somewhere"))),
            "mounts.source" => assert_eq!(mount("/data/read")["Source"], shared.display().to_string()),
            "mounts.target" => assert_eq!(mount("/data/write")["Destination"], "/data/write"),
            "mounts.read_only" => {
                assert_eq!((&mount("/data/read")["RW"], &mount("/data/write")["RW"]), (&json!(false), &json!(true)));
            }
            _ => panic!("no case for `{field}`: show what it changes"),
        }
    }
}

/// A container that the engine refuses is a failed run, and all others of the study would be, too.
#[test]
fn what_is_not_on_this_machine_is_refused_before_anything_is_started() {
    for (user, code, said) in [
        (
            json!({"mounts": [{"source": "/nowhere/data", "target": "/data"}]}),
            1,
            "`mounts` of the user config has /nowhere/data",
        ),
        (json!({"devices": ["/dev/llem-absent"]}), 1, "`devices` of the user config has /dev/llem-absent"),
        (json!({"gpu": {"lock_dir": "locks"}}), 2, "gpu.lock_dir: `locks` is not an absolute path"),
    ] {
        let Some(mut bench) = Bench::docker("absent-sources") else { return };
        bench.user = user;
        bench.run(&["--runner", "docker"]).exits(code).says(&[said]);
        assert!(!bench.output.exists(), "{said}");
    }
}

/// Not after hours of downloads.
#[test]
fn results_that_cannot_be_written_are_told_before_anything_is_made() {
    let mut bench = Bench::new("no-output");
    let file = bench.path("file");
    fs_err::write(&file, "").unwrap();
    bench.output = file.join("results");
    bench.variables = [("XDG_CACHE_HOME", bench.path("cache").display().to_string())].into();
    bench.run(&["--runner", "process"]).exits(1).says(&[
        "results go to ",
        "cannot be written: ",
        "nothing was started",
    ]);
    assert!(!bench.path("cache").exists(), "no model was made");
}

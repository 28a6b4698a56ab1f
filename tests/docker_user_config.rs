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

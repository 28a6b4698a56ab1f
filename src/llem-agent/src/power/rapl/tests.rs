use super::*;

const RANGE_UJ: u64 = 262_143_328_850;

fn zone(root: &Path, directory: &str, name: &str, energy_uj: u64) {
    let path = root.join(directory);
    fs_err::create_dir_all(&path).unwrap();
    fs_err::write(path.join("name"), format!("{name}\n")).unwrap();
    fs_err::write(path.join("max_energy_range_uj"), format!("{RANGE_UJ}\n")).unwrap();
    set(root, directory, energy_uj);
}

fn set(root: &Path, directory: &str, energy_uj: u64) {
    fs_err::write(root.join(directory).join("energy_uj"), format!("{energy_uj}\n")).unwrap();
}

fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(root.path().join("intel-rapl")).unwrap();
    zone(root.path(), "intel-rapl:0", "package-0", 1_000_000);
    zone(root.path(), "intel-rapl:0:0", "core", 1);
    zone(root.path(), "intel-rapl:0:1", "dram", 2_000_000);
    zone(root.path(), "intel-rapl:1", "psys", 5);
    root
}

fn energy_j(source: &mut Rapl, domain: usize) -> f64 {
    source.counter(domain).unwrap().unwrap().energy_j
}

#[test]
fn packages_and_memory_are_counted_and_parts_are_not() {
    let root = machine();
    let source = Rapl::open(Some(root.path())).ok().unwrap();
    let ids: Vec<String> = source.domains().into_iter().map(|domain| domain.id).collect();
    assert_eq!(ids, ["package-0", "dram-0"]);
}

#[test]
fn counters_count_from_opening() {
    let root = machine();
    let mut source = Rapl::open(Some(root.path())).ok().unwrap();
    set(root.path(), "intel-rapl:0", 3_500_000);
    assert!((energy_j(&mut source, 0) - 2.5).abs() < 1e-9);
    assert!(energy_j(&mut source, 1).abs() < 1e-9);
}

#[test]
fn a_wrap_around_goes_on_and_a_reset_is_an_error() {
    let root = machine();
    set(root.path(), "intel-rapl:0", RANGE_UJ - 100);
    set(root.path(), "intel-rapl:0:1", RANGE_UJ / 2);
    let mut source = Rapl::open(Some(root.path())).ok().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    set(root.path(), "intel-rapl:0", 900);
    assert!((energy_j(&mut source, 0) - 0.001).abs() < 1e-9);
    set(root.path(), "intel-rapl:0:1", 0);
    assert!(matches!(source.counter(1), Err(PowerError::Reset { .. })));
}

#[test]
fn power_is_energy_over_time_and_needs_two_readings() {
    let root = machine();
    let mut source = Rapl::open(Some(root.path())).ok().unwrap();
    let mut points = Vec::new();
    let start = clock::monotonic_ns();
    source.power(0, &mut points).unwrap();
    assert!(points.is_empty());
    std::thread::sleep(std::time::Duration::from_millis(50));
    set(root.path(), "intel-rapl:0", 6_000_000);
    source.power(0, &mut points).unwrap();
    let power_w = points[0].power_w;
    let highest_w = 5.0 / 0.05;
    let lowest_w = 5.0 / (clock::seconds_between(start, clock::monotonic_ns()) + 0.01);
    assert!((lowest_w..=highest_w).contains(&power_w), "{lowest_w} <= {power_w} <= {highest_w}");
}

#[test]
fn zones_inside_their_packages_are_found_once() {
    let ids = |root: &Path| {
        let source = Rapl::open(Some(root)).ok().unwrap();
        source.domains().into_iter().map(|domain| domain.id).collect::<Vec<_>>()
    };
    // As the kernel has them in /sys/devices/virtual/powercap.
    let root = tempfile::tempdir().unwrap();
    zone(root.path(), "intel-rapl/intel-rapl:0", "package-0", 1);
    zone(root.path(), "intel-rapl/intel-rapl:0/intel-rapl:0:1", "dram", 2);
    zone(root.path(), "intel-rapl/intel-rapl:1", "package-1", 3);
    assert_eq!(ids(root.path()), ["package-0", "dram-0", "package-1"]);
    // As it shows them in /sys/class/powercap beside that.
    let class = tempfile::tempdir().unwrap();
    let zones = root.path().join("intel-rapl");
    for (name, target) in [
        ("intel-rapl", zones.clone()),
        ("intel-rapl:0", zones.join("intel-rapl:0")),
        ("intel-rapl:0:1", zones.join("intel-rapl:0/intel-rapl:0:1")),
        ("intel-rapl:1", zones.join("intel-rapl:1")),
    ] {
        std::os::unix::fs::symlink(target, class.path().join(name)).unwrap();
    }
    assert_eq!(ids(class.path()), ["package-0", "dram-0", "package-1"]);
    let scopes: Vec<PowerScope> =
        Rapl::open(Some(class.path())).ok().unwrap().domains().iter().map(|domain| domain.scope).collect();
    assert_eq!(scopes, [PowerScope::Package, PowerScope::Memory, PowerScope::Package]);
}

#[test]
fn an_unreadable_counter_is_an_error_not_zero() {
    let root = machine();
    let mut source = Rapl::open(Some(root.path())).ok().unwrap();
    fs_err::write(root.path().join("intel-rapl:0/energy_uj"), "").unwrap();
    assert!(matches!(source.counter(0), Err(PowerError::Value { .. })));
}

#[test]
fn a_zone_that_cannot_be_read_takes_the_others_with_it() {
    for directory in ["intel-rapl:0", "intel-rapl:0:1"] {
        let root = machine();
        let energy = root.path().join(directory).join("energy_uj");
        fs_err::remove_file(&energy).unwrap();
        let missing = Rapl::open(Some(root.path())).err().unwrap();
        fs_err::create_dir(&energy).unwrap();
        let unreadable = Rapl::open(Some(root.path())).err().unwrap();
        for error in [missing, unreadable] {
            assert!(error.contains(&energy.display().to_string()) && error.contains(HOW_TO_ALLOW), "{error}");
        }
    }
}

#[test]
fn a_zone_that_does_not_say_what_it_is_may_be_one_that_counts() {
    let root = machine();
    zone(root.path(), "intel-rapl:2", "package-1", 7);
    let name = root.path().join("intel-rapl:2/name");
    fs_err::remove_file(&name).unwrap();
    let error = Rapl::open(Some(root.path())).err().unwrap();
    assert!(error.contains(&name.display().to_string()) && error.contains("would be too low"), "{error}");
}

#[test]
fn a_part_that_is_not_counted_may_be_unreadable() {
    let root = machine();
    fs_err::remove_file(root.path().join("intel-rapl:0:0/energy_uj")).unwrap();
    assert_eq!(Rapl::open(Some(root.path())).ok().unwrap().domains().len(), 2);
}

#[test]
fn nothing_found_names_the_place() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("powercap");
    assert!(Rapl::open(Some(&missing)).err().unwrap().contains("powercap"));
    assert!(Rapl::open(Some(root.path())).err().unwrap().contains("there are none"));
}

//! Every verdict, on stays that are written down.

use llem_protocol::{ReasonCode, Severity};

use super::super::process::{ProcessFacts, Processes};
use super::super::sightings::Sightings;
use super::{Expected, Owner, Verdict, Watched};
use crate::host::nvml::GpuClient;

const MS: u64 = 1_000_000;
const ID: &str = "4f1c0de24f1c0de24f1c0de24f1c0de24f1c0de24f1c0de24f1c0de24f1c0de2";

/// The window of all tests: from 10 s to 20 s.
const EXPECTED: Expected =
    Expected { start_ns: 10_000 * MS, end_ns: 20_000 * MS, baseline: None, prefill: None, parameters: None };

/// Own processes have ids below 100, unreadable ones of 1000 and above; process 77 is below 7.
struct Table;

impl Processes for Table {
    fn start_ticks(&self, pid: u32) -> Option<u64> {
        (pid < 1000).then_some(1)
    }

    fn facts(&self, pid: u32) -> Option<ProcessFacts> {
        let cgroup = if pid < 100 { format!("/system.slice/docker-{ID}.scope") } else { "/user.slice".to_owned() };
        Some(ProcessFacts {
            start_ticks: self.start_ticks(pid)?,
            name: "python3".to_owned(),
            uid: Some(1000),
            cgroups: cgroup,
            group: if pid == 8 { 7 } else { pid },
            ancestors: if pid == 77 { vec![50, 7, 1] } else { vec![1] },
        })
    }
}

/// A watch of the run's `GPU-a` and of `GPU-b` from 5 s to 25 s; each stay is GPU, process, first and last sight in seconds.
fn watched(stays: &[(usize, u32, u64, u64)]) -> Watched {
    let mut sightings = Sightings::of(vec!["GPU-a".into(), "GPU-b".into()]);
    for t_ns in (20..=100).map(|quarter| quarter * 250 * MS) {
        for gpu in 0..2 {
            let there =
                |(_, _, from, to): &&(usize, u32, u64, u64)| (from * 1000 * MS..=to * 1000 * MS).contains(&t_ns);
            let clients = stays.iter().filter(|stay| stay.0 == gpu).filter(there).map(|(_, pid, ..)| GpuClient {
                pid: *pid,
                memory_bytes: Some(u64::from(*pid) << 20),
                graphics: false,
            });
            sightings.look(gpu, t_ns, &clients.collect::<Vec<_>>(), &Table);
        }
    }
    Watched { of_run: vec!["GPU-a".into()], sightings, sees_all: true, ..Watched::default() }
}

fn judge(watched: &Watched) -> Verdict {
    watched.judge(Some(&Owner::Container(ID.into())), Some(EXPECTED))
}

fn codes(verdict: &Verdict) -> Vec<(ReasonCode, Severity)> {
    verdict.reasons.iter().map(|reason| (reason.code, reason.severity)).collect()
}

fn codes_of(stays: &[(usize, u32, u64, u64)]) -> Vec<(ReasonCode, Severity)> {
    codes(&judge(&watched(stays)))
}

#[test]
fn a_run_alone_on_its_gpu_is_fine() {
    let verdict = judge(&watched(&[(0, 70, 8, 22), (1, 500, 5, 25)]));
    assert_eq!(codes(&verdict), []);
    let own: Vec<_> = verdict.processes.iter().map(|p| (p.gpu.as_str(), p.pid, p.own)).collect();
    assert_eq!(own, [("GPU-b", 500, Some(false)), ("GPU-a", 70, Some(true))]);
}

#[test]
fn a_foreign_process_in_the_window_is_named() {
    let verdict = judge(&watched(&[(0, 70, 8, 22), (0, 500, 12, 13)]));
    assert_eq!(codes(&verdict), [(ReasonCode::ForeignProcess, Severity::Invalid)]);
    let message = &verdict.reasons[0].message;
    assert!(message.starts_with("process 500 (python3, uid 1000, 500 MiB on GPU-a) is not of this run"), "{message}");
}

#[test]
fn a_foreign_process_outside_the_window_is_a_note() {
    let note = [(ReasonCode::ForeignProcessOutside, Severity::Note)];
    assert_eq!(codes_of(&[(0, 70, 8, 22), (0, 500, 5, 9)]), note);
    assert_eq!(codes_of(&[(0, 70, 8, 22), (0, 500, 21, 25)]), note);
}

#[test]
fn a_foreign_process_in_baseline_or_prefill_spoils_what_is_measured_there() {
    let expected =
        Expected { baseline: Some((6_000 * MS, 7_000 * MS)), prefill: Some((22_000 * MS, 23_000 * MS)), ..EXPECTED };
    let of = |from, to| {
        let watched = watched(&[(0, 70, 8, 23), (0, 500, from, to)]);
        watched.judge(Some(&Owner::Container(ID.into())), Some(expected))
    };
    let (baseline, prefill) =
        ((ReasonCode::BaselineDisturbed, Severity::Note), (ReasonCode::PrefillDisturbed, Severity::Note));
    let found = of(5, 6);
    assert_eq!((codes(&found), found.baseline_disturbed, found.prefill_disturbed), (vec![baseline], true, false));
    let found = of(22, 24);
    assert_eq!((codes(&found), found.baseline_disturbed, found.prefill_disturbed), (vec![prefill], false, true));
    let all = of(5, 25);
    assert_eq!(codes(&all), [(ReasonCode::ForeignProcess, Severity::Invalid), baseline, prefill]);
    let none = of(8, 9);
    assert_eq!(codes(&none), [(ReasonCode::ForeignProcessOutside, Severity::Note)]);
    assert!(!none.baseline_disturbed && !none.prefill_disturbed);
}

#[test]
fn a_baseline_that_nobody_watched_is_a_note() {
    let expected = Expected { baseline: Some((1_000 * MS, 6_000 * MS)), ..EXPECTED };
    let verdict = watched(&[(0, 70, 8, 22)]).judge(Some(&Owner::Container(ID.into())), Some(expected));
    assert_eq!(codes(&verdict), [(ReasonCode::ForeignCheckUnavailable, Severity::Note)]);
    assert!(verdict.reasons[0].message.contains("4.0 s of the baseline"), "{}", verdict.reasons[0]);
}

#[test]
fn a_stay_may_have_lasted_until_the_look_that_missed_it() {
    let mut watched = watched(&[(0, 70, 8, 22), (0, 500, 5, 9)]);
    watched.sightings.list.iter_mut().filter(|s| s.pid == 500).for_each(|s| s.last_seen_ns = 9_800 * MS);
    assert_eq!(codes(&judge(&watched)), [(ReasonCode::ForeignProcess, Severity::Invalid)]);
}

#[test]
fn an_unreadable_process_is_foreign_and_not_proof_of_an_idle_gpu() {
    let verdict = judge(&watched(&[(0, 1000, 12, 12)]));
    assert_eq!(codes(&verdict), [(ReasonCode::ForeignProcess, Severity::Invalid)]);
    assert!(verdict.reasons[0].message.contains("process 1000 (unknown, unknown user"));
    assert_eq!(verdict.processes[0].name, "unknown");
}

#[test]
fn a_pid_seen_as_own_stays_own() {
    let mut watched = watched(&[(0, 70, 8, 22), (0, 500, 12, 13)]);
    watched.sightings.list.iter_mut().filter(|s| s.pid == 500).for_each(|s| {
        s.pid = 70;
        s.facts = None;
    });
    assert_eq!(codes(&judge(&watched)), []);
}

#[test]
fn an_idle_gpu_is_not_measured() {
    let not_used = [(ReasonCode::GpuNotUsed, Severity::Invalid)];
    assert_eq!(codes_of(&[]), not_used);
    assert_eq!(codes_of(&[(0, 70, 6, 9)]), not_used, "gone before the window");
}

#[test]
fn a_gpu_that_holds_next_to_nothing_is_not_used() {
    let expecting = |parameters, stays: &[_]| {
        let expected = Expected { parameters: Some(parameters), ..EXPECTED };
        codes(&watched(stays).judge(Some(&Owner::Container(ID.into())), Some(expected)))
    };
    let few = &[(0, 20, 8, 22), (0, 30, 8, 22)];
    assert_eq!(expecting(1_000_000_000, few), [(ReasonCode::GpuNotUsed, Severity::Invalid)]);
    assert_eq!(expecting(1_000_000, few), []);
    assert_eq!(expecting(1_000_000_000, &[(0, 20, 8, 22), (0, 50, 8, 22)]), []);
}

#[test]
fn own_work_on_another_gpu_is_the_wrong_device() {
    let verdict = judge(&watched(&[(0, 70, 8, 22), (1, 71, 8, 22)]));
    assert_eq!(codes(&verdict), [(ReasonCode::WrongDevice, Severity::Invalid)]);
    assert!(verdict.reasons[0].message.contains("process 71") && verdict.reasons[0].message.contains("GPU-b"));
}

#[test]
fn the_agents_processes_are_known_by_ancestors_and_group() {
    let stays = [(0, 7, 8, 22), (0, 77, 8, 22), (0, 8, 8, 22), (0, 9, 8, 22)];
    let verdict = watched(&stays).judge(Some(&Owner::Agent(7)), Some(EXPECTED));
    assert_eq!(codes(&verdict), [(ReasonCode::ForeignProcess, Severity::Invalid)]);
    let own = verdict.processes.iter().map(|p| (p.pid, p.own == Some(true)));
    assert_eq!(own.collect::<Vec<_>>(), [(7, true), (77, true), (8, true), (9, false)]);
}

#[test]
fn a_short_or_empty_container_id_owns_nothing() {
    for id in ["", "4f1c0de2"] {
        let verdict = watched(&[(0, 70, 8, 22)]).judge(Some(&Owner::Container(id.into())), Some(EXPECTED));
        assert!(codes(&verdict).contains(&(ReasonCode::ForeignProcess, Severity::Invalid)), "{id:?}");
    }
}

#[test]
fn what_could_not_be_watched_is_a_note_and_never_an_idle_gpu() {
    let note = [(ReasonCode::ForeignCheckUnavailable, Severity::Note)];
    let unloaded =
        Watched { of_run: vec!["GPU-a".into()], problem: Some("NVML cannot be used: x".into()), ..Watched::default() };
    assert_eq!(codes(&judge(&unloaded)), note);
    let unlisted = Watched { of_run: vec!["GPU-c".into()], ..watched(&[]) };
    assert_eq!(codes(&judge(&unlisted)), note);
    let late = Expected { end_ns: 30_000 * MS, ..EXPECTED };
    let verdict = watched(&[]).judge(Some(&Owner::Container(ID.into())), Some(late));
    assert_eq!(codes(&verdict), note);
    assert!(verdict.reasons[0].message.contains("GPU-a could not be listed for 5.0 s"), "{}", verdict.reasons[0]);
}

#[test]
fn in_another_pid_namespace_hidden_processes_accuse_nobody() {
    let inside = |stays: &[_]| judge(&Watched { sees_all: false, ..watched(stays) });
    let note = (ReasonCode::ForeignCheckUnavailable, Severity::Note);
    let hidden = inside(&[(0, 1000, 8, 22), (0, 500, 8, 22)]);
    assert_eq!(codes(&hidden), [note]);
    assert!(hidden.processes.iter().all(|process| process.own.is_none()));
    let readable = inside(&[(0, 70, 8, 22), (0, 500, 8, 22)]);
    assert_eq!(codes(&readable), [note, (ReasonCode::ForeignProcess, Severity::Invalid)]);
}

#[test]
fn without_a_window_nothing_is_judged_and_everything_kept() {
    let verdict = watched(&[(0, 500, 8, 22)]).judge(Some(&Owner::Container(ID.into())), None);
    assert_eq!((verdict.reasons.len(), verdict.processes.len()), (0, 1));
    let unowned = watched(&[(0, 500, 8, 22)]).judge(None, Some(EXPECTED));
    assert_eq!(codes(&unowned), [(ReasonCode::ForeignCheckUnavailable, Severity::Note)]);
    assert_eq!(unowned.processes[0].own, None);
}

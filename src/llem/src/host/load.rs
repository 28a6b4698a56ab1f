//! How busy the machine was while a run lasted, as the controller sees it.
//!
//! A thread reads the machine's processor accounts twice a second, for where the window will lie is only known when it is over. The run's own
//! part is the kernel's account of agent, driver and everything below them, which the agent reads around the window.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use fs_err::read_to_string;
use llem_protocol::{Reason, ReasonCode, WindowRecord};
use rustix::time::{ClockId, clock_gettime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::debug;

/// Time between two readings.
const PERIOD: Duration = Duration::from_millis(500);

/// How long a watch may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest time between two readings within which an account is taken to grow evenly, in nanoseconds. Only a controller that stood still
/// reads later.
const LONGEST_GAP_NS: u64 = 5_000_000_000;

/// `USER_HZ`: clock ticks of `/proc/stat` in a second, on every architecture that llem is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Share of the machine's processors that others may use.
const MAX_OTHERS_SHARE: f64 = 0.25;

/// Share that the hypervisor may take.
const MAX_STOLEN_SHARE: f64 = 0.02;

/// Share of the window in which something may wait for a processor, where others use more than [`SOME_OTHERS_SHARE`]: an engine with more
/// threads than processors waits for itself.
const MAX_WAITING_SHARE: f64 = 0.25;

/// Use by others that can be why something waits. Less is what every machine does beside its work.
const SOME_OTHERS_SHARE: f64 = 0.05;

/// What else the machine did in a run's window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostLoad {
    /// Share of the machine's processor time that others than the run used, 0 to 1: all that `/proc/stat` counts as busy, less `run_cpu_s`.
    pub others_share: f64,
    /// Share that the hypervisor gave to other machines, 0 to 1.
    pub stolen_share: f64,
    /// Share of the window in which at least one task of the machine, the run's included, waited for a processor
    /// (`/proc/pressure/cpu`), 0 to 1; null where the kernel does not account for it.
    pub waiting_share: Option<f64>,
    /// Processor seconds of the run: agent, driver and everything below them.
    pub run_cpu_s: f64,
}

/// The machine's accounts at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Accounts {
    t_ns: u64,
    busy_ticks: u64,
    idle_ticks: u64,
    stolen_ticks: u64,
    waited_us: Option<u64>,
}

/// A watch that is under way. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct LoadWatch {
    stop: Sender<()>,
    seen: oneshot::Receiver<LoadSeen>,
}

/// What a watch saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LoadSeen(Vec<Accounts>);

impl LoadWatch {
    pub(crate) fn start() -> Self {
        let (stop, stopped) = channel();
        let (send, seen) = oneshot::channel();
        let watch = move || {
            // Nobody waits for a watch that was dropped.
            let _ = send.send(watch(&stopped));
        };
        if let Err(error) = std::thread::Builder::new().name("load-watch".to_owned()).spawn(watch) {
            debug!(%error, "no thread for the watch of the host's load");
        }
        Self { stop, seen }
    }

    /// Ends the watch after a last look.
    pub(crate) async fn finish(self) -> LoadSeen {
        let _ = self.stop.send(());
        tokio::time::timeout(PATIENCE, self.seen).await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

fn watch(stop: &Receiver<()>) -> LoadSeen {
    let mut seen = LoadSeen::default();
    loop {
        seen.0.extend(Accounts::read());
        if !matches!(stop.recv_timeout(PERIOD), Err(RecvTimeoutError::Timeout)) {
            seen.0.extend(Accounts::read());
            return seen;
        }
    }
}

impl Accounts {
    fn read() -> Option<Self> {
        let now = clock_gettime(ClockId::Monotonic);
        let t_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let pressure = read_to_string("/proc/pressure/cpu").ok();
        Self::parse(t_ns, &read_to_string("/proc/stat").ok()?, pressure.as_deref())
    }

    /// Of `/proc/stat`'s first line (proc_stat(5)) guest time is contained in user time.
    fn parse(t_ns: u64, stat: &str, pressure: Option<&str>) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).take(8).collect();
        let [user, nice, system, idle, iowait, irq, softirq, stolen_ticks] = ticks.try_into().ok()?;
        let some = pressure.and_then(|text| text.lines().find_map(|line| line.strip_prefix("some ")));
        let total = some.and_then(|line| line.split_ascii_whitespace().find_map(|field| field.strip_prefix("total=")));
        Some(Self {
            t_ns,
            busy_ticks: user + nice + system + irq + softirq,
            idle_ticks: idle + iowait,
            stolen_ticks,
            waited_us: total.and_then(|total| total.parse().ok()),
        })
    }
}

/// One of the accounts.
type Account = fn(&Accounts) -> Option<u64>;

impl LoadSeen {
    /// What else the machine did in a window; `None` where it was not watched throughout, or the run's own part is not known.
    pub(crate) fn in_window(&self, window: &WindowRecord) -> Option<HostLoad> {
        let run_cpu_s = window.run_cpu_s.filter(|cpu_s| cpu_s.is_finite() && *cpu_s >= 0.0)?;
        let used = |account: Account| self.used(account, window.start_ns, window.end_ns);
        let busy = used(|a| Some(a.busy_ticks))?;
        let stolen = used(|a| Some(a.stolen_ticks))?;
        let total = busy + stolen + used(|a| Some(a.idle_ticks))?;
        let seconds = window.end_ns.checked_sub(window.start_ns)? as f64 / 1e9;
        let waited_us = used(|a| a.waited_us);
        let others = (busy - run_cpu_s * TICKS_PER_SECOND).max(0.0);
        (total > 0.0 && seconds > 0.0).then(|| HostLoad {
            others_share: others / total,
            stolen_share: stolen / total,
            waiting_share: waited_us.map(|waited| (waited / 1e6 / seconds).min(1.0)),
            run_cpu_s,
        })
    }

    /// What [`LoadSeen::in_window`] needs of it.
    pub(crate) fn around(&self, window: &WindowRecord) -> Self {
        let beside = |t_ns: u64| {
            let after = self.0.partition_point(|reading| reading.t_ns < t_ns);
            self.0.get(after.saturating_sub(1)..(after + 1).min(self.0.len())).unwrap_or_default()
        };
        let mut kept = [beside(window.start_ns), beside(window.end_ns)].concat();
        // Both edges of a short window lie between the same readings.
        kept.sort_by_key(|reading| reading.t_ns);
        kept.dedup();
        Self(kept)
    }

    fn used(&self, account: Account, start_ns: u64, end_ns: u64) -> Option<f64> {
        // An account of the kernel may go back by a tick or two.
        Some((self.at(account, end_ns)? - self.at(account, start_ns)?).max(0.0))
    }

    /// Between two readings, an account grows evenly; `None` where they are too far apart to say so.
    fn at(&self, account: Account, t_ns: u64) -> Option<f64> {
        let after = self.0.partition_point(|reading| reading.t_ns < t_ns);
        let later = self.0.get(after)?;
        let earlier = if later.t_ns == t_ns { later } else { self.0.get(after.checked_sub(1)?)? };
        let (from, to) = (account(earlier)? as f64, account(later)? as f64);
        let span = later.t_ns.saturating_sub(earlier.t_ns);
        if span > LONGEST_GAP_NS {
            return None;
        }
        let part = if span > 0 { t_ns.saturating_sub(earlier.t_ns) as f64 / span as f64 } else { 0.0 };
        Some(from + (to - from) * part)
    }
}

impl HostLoad {
    /// What speaks against a run beside so much other work.
    pub(crate) fn reason(&self) -> Option<Reason> {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let beside = self.others_share + self.stolen_share > SOME_OTHERS_SHARE;
        let waiting = self.waiting_share.filter(|share| beside && *share > MAX_WAITING_SHARE);
        if self.others_share <= MAX_OTHERS_SHARE && self.stolen_share <= MAX_STOLEN_SHARE && waiting.is_none() {
            return None;
        }
        let mut parts = vec![format!(
            "other programs used {} of the machine's processors in the window",
            percent(self.others_share)
        )];
        if self.stolen_share > MAX_STOLEN_SHARE {
            parts.push(format!("the hypervisor took {}", percent(self.stolen_share)));
        }
        parts.extend(waiting.map(|share| format!("in {} of it something waited for a processor", percent(share))));
        Some(Reason::new(ReasonCode::HostBusy, parts.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use llem_protocol::{EnergyReport, ReasonCode, SelfUsage, WindowRecord};

    use super::{Accounts, HostLoad, LoadSeen, LoadWatch};

    const S: u64 = 1_000_000_000;

    /// `/proc/stat` and `/proc/pressure/cpu` of a machine with four processors, as its kernel wrote them 10 s apart while one program
    /// computed on one of them, with little else; guest time, in the last two columns, is in the first two as well.
    const QUIET: [(&str, &str); 2] = [
        (
            "cpu  80317 291 20114 1913604 2120 0 811 35 0 0\ncpu0 20001 70 5000 478000 500 0 700 10 0 0\nintr 1\n",
            "some avg10=0.12 avg60=0.20 avg300=0.31 total=48211907\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
        (
            "cpu  81320 291 20134 1916564 2123 0 813 36 0 0\ncpu0 20251 70 5005 478740 501 0 701 10 0 0\nintr 1\n",
            "some avg10=0.31 avg60=0.24 avg300=0.31 total=48262110\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
    ];

    fn seen(texts: [(&str, &str); 2]) -> LoadSeen {
        seen_every(10 * S, texts)
    }

    fn seen_every(period_ns: u64, texts: [(&str, &str); 2]) -> LoadSeen {
        let read = |(at, (stat, pressure)): (usize, (&str, &str))| {
            Accounts::parse(at as u64 * period_ns, stat, Some(pressure)).unwrap()
        };
        LoadSeen(texts.into_iter().enumerate().map(read).collect())
    }

    fn window(start_ns: u64, end_ns: u64, run_cpu_s: Option<f64>) -> WindowRecord {
        let (passes, split, agent) = (Vec::new(), Vec::new(), SelfUsage::default());
        WindowRecord { start_ns, end_ns, passes, energy: EnergyReport::default(), split, agent, run_cpu_s }
    }

    #[test]
    fn the_runs_own_work_on_a_quiet_machine_is_not_others() {
        let load = seen(QUIET).in_window(&window(0, 10 * S, Some(10.0))).unwrap();
        // 1003 + 20 + 2 ticks busy of 3989, 1000 of them the run's; 1 stolen; 50.2 ms of waiting.
        assert!((load.others_share - 25.0 / 3989.0).abs() < 1e-9 && (load.stolen_share - 1.0 / 3989.0).abs() < 1e-9);
        assert!((load.waiting_share.unwrap() - 0.005_020_3).abs() < 1e-9, "{load:?}");
        assert_eq!(load.reason(), None);
        let window_of_all = window(0, 10 * S, Some(10.0));
        assert_eq!(seen(QUIET).around(&window_of_all).in_window(&window_of_all), Some(load));
        // The same work of somebody else.
        let load = seen(QUIET).in_window(&window(0, 10 * S, Some(0.0))).unwrap();
        let reason = load.reason().unwrap();
        assert_eq!(reason.code, ReasonCode::HostBusy);
        assert!(reason.happened().starts_with("other programs used 26 % of the machine's processors"), "{reason}");
    }

    #[test]
    fn edges_of_the_window_lie_between_readings() {
        let half = seen_every(4 * S, QUIET).in_window(&window(S, 3 * S, Some(5.0))).unwrap();
        assert!((half.others_share - 25.0 / 3989.0).abs() < 1e-9, "{half:?}");
        // Of readings that are as far apart nobody knows how much of it was in the window.
        assert_eq!(seen(QUIET).in_window(&window(2 * S, 7 * S, Some(5.0))), None);
        for outside in [window(0, 11 * S, Some(1.0)), window(0, 10 * S, None), window(0, 10 * S, Some(f64::NAN))] {
            assert_eq!(seen(QUIET).in_window(&outside), None);
        }
        assert_eq!(LoadSeen::default().in_window(&window(0, S, Some(0.0))), None);
    }

    #[test]
    fn limits_are_where_they_are_said_to_be() {
        let load = |others_share, stolen_share, waiting_share| {
            HostLoad { others_share, stolen_share, waiting_share, run_cpu_s: 1.0 }.reason().map(|r| r.message)
        };
        assert_eq!(load(0.25, 0.02, None), None);
        assert!(load(0.26, 0.0, None).unwrap().contains("26 %"));
        assert!(load(0.0, 0.03, None).unwrap().contains("the hypervisor took 3 %"));
        // Who waits for itself is not disturbed by others.
        assert_eq!(load(0.01, 0.0, Some(1.0)), None);
        assert!(load(0.06, 0.0, Some(0.4)).unwrap().contains("in 40 % of it something waited for a processor"));
        assert_eq!(load(0.06, 0.0, Some(0.2)), None);
    }

    #[test]
    fn kernels_without_pressure_are_read() {
        let accounts = Accounts::parse(0, QUIET[0].0, None).unwrap();
        assert_eq!((accounts.busy_ticks, accounts.idle_ticks, accounts.stolen_ticks), (101_533, 1_915_724, 35));
        assert_eq!((accounts.waited_us, Accounts::parse(0, "intr 1", None)), (None, None));
    }

    #[tokio::test]
    async fn this_machine_is_watched() {
        let seen = LoadWatch::start().finish().await;
        assert!(seen.0.len() >= 2, "a look at the beginning and one at the end");
    }
}

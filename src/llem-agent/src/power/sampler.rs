//! The handle of the thread that owns the power sources.

mod thread;

use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use llem_protocol::PowerDomain;

use super::align::EdgeReading;
use super::recording::{Recording, StateSample};
use super::{PowerError, PowerSource};
use crate::clock;
use thread::Sampling;

/// A moment at which all counters were read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Edge {
    /// The moment at which the reading was over.
    pub(crate) t_ns: u64,
    /// The counter of each domain, in the order of [`Recording::domains`]. Empty when nothing is sampled.
    pub(crate) readings: Vec<EdgeReading>,
}

/// Why a counter that exists could not be used at an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CounterFault {
    /// It could not be read.
    Lost,
    /// It was set back.
    Reset,
}

enum Command {
    /// Read all counters at once.
    Edge(Sender<Edge>),
    /// Look for the next tick of each counter, before work begins.
    Opening(Sender<Edge>),
    /// The same after work that ended at this moment.
    Closing(u64, Sender<Edge>),
    /// Hand out the states since a moment.
    States(u64, Sender<Vec<(PowerDomain, Vec<StateSample>)>>),
    Finish,
}

/// Handle of the sampling thread.
pub(crate) struct Sampler {
    thread: Option<(Sender<Command>, JoinHandle<Recording>)>,
}

impl Sampler {
    /// A sampler without sources.
    pub(crate) fn idle() -> Self {
        Self { thread: None }
    }

    /// Starts sampling all domains of `sources`; power of those without a pace of their own `hz` times a second, of none at all when that
    /// is 0; what the devices are doing, always.
    /// Without domains there is no thread.
    pub(crate) fn start(sources: Vec<Box<dyn PowerSource>>, hz: f64) -> Self {
        if sources.iter().all(|source| source.domains().is_empty()) {
            return Self::idle();
        }
        let (commands, received) = channel();
        let thread = std::thread::spawn(move || Sampling::new(sources, hz).run(&received));
        Self { thread: Some((commands, thread)) }
    }

    /// Whether anything is read.
    pub(crate) fn has_sources(&self) -> bool {
        self.thread.is_some()
    }

    /// Reads all counters now.
    pub(crate) fn edge(&self) -> Edge {
        self.ask(Command::Edge).unwrap_or_else(empty_edge)
    }

    /// Reads every counter at its next tick; work may begin on return. Takes up to a few periods of the counters.
    pub(crate) fn opening(&self) -> Edge {
        self.ask(Command::Opening).unwrap_or_else(empty_edge)
    }

    /// Reads every counter at its first tick that has seen all of the work that ended at `work_end_ns`.
    pub(crate) fn closing(&self, work_end_ns: u64) -> Edge {
        self.ask(|answer| Command::Closing(work_end_ns, answer)).unwrap_or_else(empty_edge)
    }

    /// What the devices were doing since `from_ns`.
    pub(crate) fn states_since(&self, from_ns: u64) -> Vec<(PowerDomain, Vec<StateSample>)> {
        self.ask(|answer| Command::States(from_ns, answer)).unwrap_or_default()
    }

    /// Ends the thread and returns what it recorded.
    pub(crate) fn finish(&mut self) -> Recording {
        let Some((commands, thread)) = self.thread.take() else { return Recording::default() };
        let _ = commands.send(Command::Finish);
        thread.join().unwrap_or_default()
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Option<T> {
        let (commands, _) = self.thread.as_ref()?;
        let (answer, answered) = channel();
        commands.send(command(answer)).ok()?;
        answered.recv().ok()
    }
}

fn empty_edge() -> Edge {
    Edge { t_ns: clock::monotonic_ns(), readings: Vec::new() }
}

/// Whether a reading failed because the counter was set back.
pub(super) fn is_reset(error: &PowerError) -> bool {
    matches!(error, PowerError::Reset { .. })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use llem_protocol::{CurveKind, PowerScope, PowerSourceKind};

    use super::super::curve::Point;
    use super::super::{Counter, DeviceState};
    use super::*;

    /// 10 W for ever, with a counter that is always fresh.
    struct TenWatts {
        start: Instant,
    }

    impl PowerSource for TenWatts {
        fn domains(&self) -> Vec<PowerDomain> {
            let id = "package-0".to_owned();
            vec![PowerDomain { source: PowerSourceKind::Rapl, id, scope: PowerScope::Package }]
        }

        fn curve_kind(&self, _: usize) -> CurveKind {
            CurveKind::Mean
        }

        fn pace(&self, _: usize) -> Option<Duration> {
            None
        }

        fn power(&mut self, _: usize, points: &mut Vec<Point>) -> Result<(), PowerError> {
            points.push(Point { t_ns: clock::monotonic_ns(), power_w: 10.0 });
            Ok(())
        }

        fn state(&mut self, _: usize) -> Option<DeviceState> {
            Some(DeviceState { temperature_c: Some(40), ..DeviceState::default() })
        }

        fn counter(&mut self, _: usize) -> Result<Option<Counter>, PowerError> {
            let energy_j = self.start.elapsed().as_secs_f64() * 10.0;
            Ok(Some(Counter { t_ns: clock::monotonic_ns(), energy_j }))
        }

        fn counter_period(&self) -> Duration {
            Duration::from_millis(1)
        }
    }

    #[test]
    fn counter_and_curve_of_a_steady_source_agree() {
        let mut sampler = Sampler::start(vec![Box::new(TenWatts { start: Instant::now() })], 200.0);
        let start = sampler.opening();
        std::thread::sleep(Duration::from_millis(300));
        let end = sampler.closing(clock::monotonic_ns());
        let states = sampler.states_since(0);
        assert_eq!(states[0].1.last().unwrap().state.temperature_c, Some(40));
        let recording = sampler.finish();
        let energy = recording.energy(&start, &end, None);
        let device = &energy.devices[0];
        let expected_j = clock::seconds_between(device.start.t_ns, device.end.t_ns) * 10.0;
        assert!((device.counter_j.unwrap() - expected_j).abs() < 0.05);
        assert!((device.curve_j.unwrap() - expected_j).abs() < 1e-6);
        assert!(device.samples > 20, "{} samples", device.samples);
    }

    #[test]
    fn without_samples_there_are_counters_and_nothing_else() {
        let mut sampler = Sampler::start(vec![Box::new(TenWatts { start: Instant::now() })], 0.0);
        let start = sampler.edge();
        std::thread::sleep(Duration::from_millis(50));
        let end = sampler.edge();
        let device = sampler.finish().energy(&start, &end, None).devices.remove(0);
        assert!(device.counter_j.unwrap() > 0.4);
        assert_eq!((device.curve_j, device.samples), (None, 0));
    }

    #[test]
    fn without_sources_edges_are_times() {
        let mut sampler = Sampler::start(Vec::new(), 10.0);
        assert!(sampler.edge().readings.is_empty() && sampler.opening().readings.is_empty());
        assert!(sampler.finish().domains.is_empty());
    }
}

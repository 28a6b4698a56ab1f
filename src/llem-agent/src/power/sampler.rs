//! The thread that owns the power sources. It wakes at absolute times, so that a late sample does not shift the rest.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llem_protocol::PowerDomain;

use super::energy::{Recording, Sample};
use super::{PowerError, PowerSource, Reading};
use crate::clock;

/// Room for samples is set aside for this long, so that nothing is allocated inside the window of a usual run.
const ROOM_S: f64 = 3600.0;

/// The most room that is set aside, in samples.
const MAX_ROOM: usize = 1 << 20;

/// A moment at which all counters were read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Edge {
    /// The moment.
    pub(crate) t_ns: u64,
    /// Energy of each domain in joules, in the order of [`Recording::domains`]. Empty when nothing is sampled.
    pub(crate) counters_j: Vec<Result<Option<f64>, CounterFault>>,
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
    Edge(Sender<Edge>),
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

    /// Starts sampling all domains of `sources`, `hz` times a second. Without domains there is no thread.
    pub(crate) fn start(sources: Vec<Box<dyn PowerSource>>, hz: f64) -> Self {
        if sources.iter().all(|source| source.domains().is_empty()) {
            return Self::idle();
        }
        let (commands, received) = channel();
        let thread = std::thread::spawn(move || Sampling::new(sources, hz).run(&received));
        Self { thread: Some((commands, thread)) }
    }

    /// Whether anything is sampled.
    pub(crate) fn has_sources(&self) -> bool {
        self.thread.is_some()
    }

    /// Reads all counters now.
    pub(crate) fn edge(&self) -> Edge {
        let asked = self.thread.as_ref().and_then(|(commands, _)| {
            let (answer, answered) = channel();
            commands.send(Command::Edge(answer)).ok()?;
            answered.recv().ok()
        });
        asked.unwrap_or_else(|| Edge { t_ns: clock::monotonic_ns(), counters_j: Vec::new() })
    }

    /// Ends the thread and returns what it recorded.
    pub(crate) fn finish(&mut self) -> Recording {
        let Some((commands, thread)) = self.thread.take() else { return Recording::default() };
        let _ = commands.send(Command::Finish);
        thread.join().unwrap_or_default()
    }
}

struct Sampling {
    sources: Vec<Box<dyn PowerSource>>,
    /// Source and domain within it, for each domain of the recording.
    places: Vec<(usize, usize)>,
    period: Duration,
    recording: Recording,
}

impl Sampling {
    fn new(sources: Vec<Box<dyn PowerSource>>, hz: f64) -> Self {
        let domains: Vec<Vec<PowerDomain>> = sources.iter().map(|source| source.domains()).collect();
        let numbered = domains.iter().enumerate();
        let places: Vec<_> = numbered.flat_map(|(s, list)| (0..list.len()).map(move |d| (s, d))).collect();
        let room = (hz * ROOM_S) as usize * places.len();
        let period = Duration::from_secs_f64(1.0 / hz);
        let samples = Vec::with_capacity(room.min(MAX_ROOM));
        let recording =
            Recording { domains: domains.concat(), samples, period_s: period.as_secs_f64(), resets: Vec::new() };
        Self { sources, places, period, recording }
    }

    fn run(mut self, commands: &Receiver<Command>) -> Recording {
        let mut next = Instant::now();
        loop {
            match commands.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Command::Edge(answer)) => {
                    let edge = self.read_edge();
                    let _ = answer.send(edge);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.sample_all();
                    next = next_tick(next, self.period, Instant::now());
                }
                Ok(Command::Finish) | Err(RecvTimeoutError::Disconnected) => return self.recording,
            }
        }
    }

    fn sample_all(&mut self) {
        for (domain, (source, place)) in self.places.iter().enumerate() {
            let Some(source) = self.sources.get_mut(*source) else { continue };
            let reading = match source.sample(*place) {
                Ok(reading) => reading,
                Err(PowerError::NoEarlierReading) => continue,
                Err(error) => {
                    if matches!(error, PowerError::Reset { .. }) {
                        self.recording.resets.push((clock::monotonic_ns(), domain));
                    }
                    Reading::default()
                }
            };
            self.recording.samples.push(Sample { t_ns: clock::monotonic_ns(), domain: domain as u16, reading });
        }
    }

    fn read_edge(&mut self) -> Edge {
        let mut counters_j = Vec::with_capacity(self.places.len());
        let mut t_ns = clock::monotonic_ns();
        for (source, place) in &self.places {
            let Some(source) = self.sources.get_mut(*source) else { continue };
            counters_j.push(match source.counter(*place) {
                Ok(counter) => {
                    t_ns = counter.map_or(t_ns, |counter| counter.t_ns);
                    Ok(counter.map(|counter| counter.energy_j))
                }
                Err(PowerError::Reset { .. }) => Err(CounterFault::Reset),
                Err(_) => Err(CounterFault::Lost),
            });
        }
        Edge { t_ns, counters_j }
    }
}

/// The first tick after `now`; ticks that have been missed are left out, not made up for.
fn next_tick(last: Instant, period: Duration, now: Instant) -> Instant {
    let next = last + period;
    if next > now {
        return next;
    }
    let missed = (now - last).as_secs_f64() / period.as_secs_f64();
    last + period.mul_f64(missed.floor() + 1.0)
}

#[cfg(test)]
mod tests {
    use llem_protocol::PowerSourceKind;

    use super::super::Counter;
    use super::*;

    /// 10 W for ever.
    struct TenWatts {
        start: Instant,
    }

    impl PowerSource for TenWatts {
        fn domains(&self) -> Vec<PowerDomain> {
            vec![PowerDomain { source: PowerSourceKind::Rapl, id: "package-0".to_owned() }]
        }

        fn sample(&mut self, _: usize) -> Result<Reading, PowerError> {
            Ok(Reading { power_w: Some(10.0), ..Reading::default() })
        }

        fn counter(&mut self, _: usize) -> Result<Option<Counter>, PowerError> {
            let energy_j = self.start.elapsed().as_secs_f64() * 10.0;
            Ok(Some(Counter { t_ns: clock::monotonic_ns(), energy_j }))
        }
    }

    #[test]
    fn ticks_stay_on_the_grid() {
        let start = Instant::now();
        let period = Duration::from_millis(100);
        assert_eq!(next_tick(start, period, start + Duration::from_millis(3)), start + period);
        let late = next_tick(start, period, start + Duration::from_millis(250));
        assert!(late.duration_since(start).abs_diff(Duration::from_millis(300)) < Duration::from_micros(1));
    }

    #[test]
    fn counter_and_curve_of_a_steady_source_agree() {
        let mut sampler = Sampler::start(vec![Box::new(TenWatts { start: Instant::now() })], 200.0);
        let start = sampler.edge();
        std::thread::sleep(Duration::from_millis(300));
        let end = sampler.edge();
        let recording = sampler.finish();
        let energy = recording.energy(&start, &end);
        let device = &energy.devices[0];
        let expected_j = clock::seconds_between(start.t_ns, end.t_ns) * 10.0;
        assert!((device.counter_j.unwrap() - expected_j).abs() < 0.05);
        assert!((device.curve_j.unwrap() - expected_j).abs() < 1e-6);
        assert!(device.samples > 20, "{} samples", device.samples);
    }

    #[test]
    fn without_sources_edges_are_times() {
        let mut sampler = Sampler::start(Vec::new(), 10.0);
        assert!(sampler.edge().counters_j.is_empty());
        assert!(sampler.finish().domains.is_empty());
    }
}

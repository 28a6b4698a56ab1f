//! The thread that owns the power sources. It wakes at absolute times, so that a late sample does not shift the rest.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use llem_protocol::PowerDomain;

use super::align::{EdgeReading, find_tick};
use super::recording::{DomainRecording, Recording, StateSample};
use super::{PowerError, PowerSource};
use crate::clock;

/// Time between two readings of clocks, temperature and the like.
const STATE_PERIOD: Duration = Duration::from_millis(500);

/// Counters that are refreshed more often than this need no search for their ticks.
const FAST_COUNTER: Duration = Duration::from_millis(5);

/// A tick earlier than this after the work may not have seen all of it: the counter lags 5 ms behind the power, which takes about
/// 20 ms to fall (seen on an H100).
const SENSOR_LAG_NS: u64 = 30_000_000;

/// The idle time before work, which the two means before the start have to themselves: the longest of the driver's buffer was 47 ms.
const IDLE: Duration = Duration::from_millis(100);

/// The newest sample in the driver's buffer is this old at most (0.15 s was seen on an H100).
const BUFFER_DELAY_NS: u64 = 400_000_000;

/// The longest wait when nothing is sampled.
const NEVER: Duration = Duration::from_secs(3600);

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

/// When something is read again.
#[derive(Clone, Copy)]
struct Pace {
    next: Instant,
    period: Duration,
}

/// One domain of one source.
struct Place {
    source: usize,
    domain: usize,
    power: Option<Pace>,
    last_tick_ns: Option<u64>,
}

struct Sampling {
    sources: Vec<Box<dyn PowerSource>>,
    /// In the order of the recording's domains.
    places: Vec<Place>,
    states: Option<Pace>,
    last_edge_ns: u64,
    recording: Recording,
}

impl Sampling {
    fn new(sources: Vec<Box<dyn PowerSource>>, hz: f64) -> Self {
        let mut places = Vec::new();
        let mut recording = Recording::default();
        let pace = |period| Pace { next: Instant::now(), period };
        let asked = (hz > 0.0).then(|| Duration::from_secs_f64(1.0 / hz));
        for (number, source) in sources.iter().enumerate() {
            for (domain, covers) in source.domains().into_iter().enumerate() {
                let power = asked.map(|asked| pace(source.pace(domain).unwrap_or(asked)));
                places.push(Place { source: number, domain, power, last_tick_ns: None });
                let period_s = source.counter_period().as_secs_f64();
                recording.domains.push(DomainRecording::new(covers, source.curve_kind(domain), period_s));
            }
        }
        Self { sources, places, states: Some(pace(STATE_PERIOD)), last_edge_ns: 0, recording }
    }

    fn run(mut self, commands: &Receiver<Command>) -> Recording {
        loop {
            match commands.recv_timeout(self.next_wait()) {
                Ok(Command::Edge(answer)) => {
                    let _ = answer.send(self.read_edge());
                }
                Ok(Command::Opening(answer)) => {
                    let _ = answer.send(self.open());
                }
                Ok(Command::Closing(work_end_ns, answer)) => {
                    let _ = answer.send(self.close(work_end_ns));
                }
                Ok(Command::States(from_ns, answer)) => {
                    let _ = answer.send(self.recording.states_since(from_ns));
                }
                Err(RecvTimeoutError::Timeout) => self.sample_due(Instant::now()),
                Ok(Command::Finish) | Err(RecvTimeoutError::Disconnected) => return self.finish(),
            }
        }
    }

    fn next_wait(&self) -> Duration {
        let paces = self.places.iter().filter_map(|place| place.power).chain(self.states);
        let next = paces.map(|pace| pace.next).min();
        next.map_or(NEVER, |next| next.saturating_duration_since(Instant::now()))
    }

    fn sample_due(&mut self, now: Instant) {
        for (place, record) in self.places.iter_mut().zip(&mut self.recording.domains) {
            let Some(source) = self.sources.get_mut(place.source) else { continue };
            if is_due(&mut place.power, now) {
                record.take_power(source.as_mut(), place.domain);
            }
        }
        if is_due(&mut self.states, now) {
            for (place, record) in self.places.iter().zip(&mut self.recording.domains) {
                let Some(source) = self.sources.get_mut(place.source) else { continue };
                record.take_state(source.as_mut(), place.domain);
            }
        }
    }

    fn read_edge(&mut self) -> Edge {
        let mut readings = Vec::with_capacity(self.places.len());
        for place in &self.places {
            let Some(source) = self.sources.get_mut(place.source) else { continue };
            readings.push(EdgeReading::unaligned(source.counter(place.domain), source.counter_period()));
        }
        Edge { t_ns: clock::monotonic_ns(), readings }
    }

    /// Counters that are always fresh come last, right before the work.
    fn open(&mut self) -> Edge {
        if self.places.iter().any(|place| self.is_buffered(place)) {
            std::thread::sleep(IDLE);
        }
        let mut readings = vec![None; self.places.len()];
        self.find_ticks(&mut readings);
        self.read_fast(&mut readings);
        self.close_edge(readings)
    }

    /// Counters that are always fresh come first, right after the work.
    fn close(&mut self, work_end_ns: u64) -> Edge {
        let mut readings = vec![None; self.places.len()];
        self.read_fast(&mut readings);
        sleep_until(work_end_ns.saturating_add(SENSOR_LAG_NS));
        self.find_ticks(&mut readings);
        self.close_edge(readings)
    }

    fn close_edge(&mut self, readings: Vec<Option<EdgeReading>>) -> Edge {
        let t_ns = clock::monotonic_ns();
        self.last_edge_ns = t_ns;
        Edge { t_ns, readings: readings.into_iter().flatten().collect() }
    }

    fn read_fast(&mut self, readings: &mut [Option<EdgeReading>]) {
        for (place, reading) in self.places.iter().zip(readings) {
            let Some(source) = self.sources.get_mut(place.source) else { continue };
            if source.counter_period() <= FAST_COUNTER {
                let read = EdgeReading::unaligned(source.counter(place.domain), source.counter_period());
                *reading = Some(EdgeReading { aligned: true, ..read });
            }
        }
    }

    /// One counter after the other. With many, that takes longer than the sensors without a buffer can go unread.
    fn find_ticks(&mut self, readings: &mut [Option<EdgeReading>]) {
        for (number, reading) in readings.iter_mut().enumerate() {
            self.sample_due(Instant::now());
            let Some(place) = self.places.get_mut(number) else { continue };
            let Some(source) = self.sources.get_mut(place.source) else { continue };
            let period = source.counter_period();
            if period > FAST_COUNTER {
                let tick = find_tick(period, place.last_tick_ns, || source.counter(place.domain));
                place.last_tick_ns = Some(tick.t_ns).filter(|_| tick.aligned);
                *reading = Some(tick);
            }
        }
    }

    /// Whether the sensor is slower than the work's edges.
    fn is_buffered(&self, place: &Place) -> bool {
        self.sources.get(place.source).is_some_and(|source| source.pace(place.domain).is_some())
    }

    /// Takes what the sensors' own buffers still hold back of the time up to the last edge; the others go on meanwhile.
    fn finish(mut self) -> Recording {
        if self.last_edge_ns > 0 && self.places.iter().any(|place| self.is_buffered(place)) {
            let until_ns = self.last_edge_ns.saturating_add(BUFFER_DELAY_NS);
            while let Some(left_ns) = until_ns.checked_sub(clock::monotonic_ns()) {
                std::thread::sleep(self.next_wait().min(Duration::from_nanos(left_ns)));
                self.sample_due(Instant::now());
            }
        }
        self.sample_due(Instant::now() + NEVER);
        self.recording
    }
}

fn sleep_until(t_ns: u64) {
    if let Some(wait_ns) = t_ns.checked_sub(clock::monotonic_ns()) {
        std::thread::sleep(Duration::from_nanos(wait_ns));
    }
}

/// Whether it is time, and if so, when it is time again.
fn is_due(pace: &mut Option<Pace>, now: Instant) -> bool {
    let Some(pace) = pace.as_mut().filter(|pace| pace.next <= now) else { return false };
    pace.next = next_tick(pace.next, pace.period, now);
    true
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

/// Whether a reading failed because the counter was set back.
pub(super) fn is_reset(error: &PowerError) -> bool {
    matches!(error, PowerError::Reset { .. })
}

#[cfg(test)]
mod tests {
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

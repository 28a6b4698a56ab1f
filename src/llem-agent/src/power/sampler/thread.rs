//! The thread that owns the power sources. It wakes at absolute times, so that a late sample does not shift the rest.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::super::PowerSource;
use super::super::align::{EdgeReading, find_tick};
use super::super::recording::{DomainRecording, Recording};
use super::{Command, Edge};
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

/// All that the thread has.
pub(super) struct Sampling {
    sources: Vec<Box<dyn PowerSource>>,
    /// In the order of the recording's domains.
    places: Vec<Place>,
    states: Option<Pace>,
    last_edge_ns: u64,
    recording: Recording,
}

impl Sampling {
    pub(super) fn new(sources: Vec<Box<dyn PowerSource>>, hz: f64) -> Self {
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

    /// Samples until it is told to end, and hands out what it recorded.
    pub(super) fn run(mut self, commands: &Receiver<Command>) -> Recording {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stay_on_the_grid() {
        let start = Instant::now();
        let period = Duration::from_millis(100);
        assert_eq!(next_tick(start, period, start + Duration::from_millis(3)), start + period);
        let late = next_tick(start, period, start + Duration::from_millis(250));
        assert!(late.duration_since(start).abs_diff(Duration::from_millis(300)) < Duration::from_micros(1));
    }
}

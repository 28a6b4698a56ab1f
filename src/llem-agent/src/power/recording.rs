//! Everything that was read in a run.

use std::cell::OnceCell;

use llem_protocol::{CurveKind, PowerDomain, PowerSample, PowerScope, Reason, ReasonCode};

use super::curve::{Curve, Point, are_means};
use super::sampler::is_reset;
use super::{DeviceState, PowerSource};
use crate::clock;

/// Room for points is set aside, so that nothing is moved inside the window of a usual run: an hour at 50 a second.
const ROOM: usize = 180_000;

/// What a device was doing, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StateSample {
    pub(crate) t_ns: u64,
    pub(crate) state: DeviceState,
}

/// What one domain gave.
#[derive(Clone, Debug)]
pub(crate) struct DomainRecording {
    pub(crate) domain: PowerDomain,
    /// What the source says of its points, see [`Self::curve`].
    pub(super) given_kind: CurveKind,
    /// Seconds between two refreshes of the counter.
    pub(crate) counter_period_s: f64,
    pub(crate) points: Vec<Point>,
    /// When asking for power failed.
    pub(crate) failures: Vec<u64>,
    /// When the counter was found set back while power was read.
    pub(crate) resets: Vec<u64>,
    pub(crate) states: Vec<StateSample>,
    /// The points' curve, made when it is first asked for, after sampling: every phase and every check reads it.
    pub(super) curve: OnceCell<Curve>,
}

/// Everything that was sampled in a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    pub(crate) domains: Vec<DomainRecording>,
}

impl DomainRecording {
    pub(crate) fn new(domain: PowerDomain, kind: CurveKind, counter_period_s: f64) -> Self {
        let points = Vec::with_capacity(ROOM);
        Self {
            domain,
            given_kind: kind,
            counter_period_s,
            points,
            failures: Vec::new(),
            resets: Vec::new(),
            states: Vec::new(),
            curve: OnceCell::new(),
        }
    }

    /// Asks for the points since the last time. A failed reading is no point: it is not 0 W.
    pub(super) fn take_power(&mut self, source: &mut dyn PowerSource, domain: usize) {
        if let Err(error) = source.power(domain, &mut self.points) {
            let t_ns = clock::monotonic_ns();
            if is_reset(&error) {
                self.resets.push(t_ns);
            }
            self.failures.push(t_ns);
        }
    }

    pub(super) fn take_state(&mut self, source: &mut dyn PowerSource, domain: usize) {
        if let Some(state) = source.state(domain) {
            self.states.push(StateSample { t_ns: clock::monotonic_ns(), state });
        }
    }

    /// The points' curve. Its kind is the source's, or, for a driver's buffer, what the stamps show.
    pub(crate) fn curve(&self) -> &Curve {
        self.curve.get_or_init(|| {
            let shown = self.given_kind == CurveKind::Samples && are_means(&self.points);
            Curve::new(if shown { CurveKind::Mean } else { self.given_kind }, &self.points)
        })
    }

    /// Seconds without a point up to a moment, counted from `since_ns` at the earliest.
    pub(crate) fn silent_s(&self, since_ns: u64, until_ns: u64) -> f64 {
        let last_ns = self.points.last().map_or(since_ns, |point| point.t_ns).max(since_ns);
        clock::seconds_between(last_ns, until_ns)
    }

    /// States between two moments.
    pub(crate) fn states_between(&self, from_ns: u64, to_ns: u64) -> &[StateSample] {
        let first = self.states.partition_point(|sample| sample.t_ns < from_ns);
        let last = self.states.partition_point(|sample| sample.t_ns <= to_ns);
        self.states.get(first..last).unwrap_or_default()
    }
}

impl Recording {
    /// Whether the experiment's energy holds this domain: its GPUs, or, without any, what is left.
    pub(crate) fn counts(&self, record: &DomainRecording) -> bool {
        let is_gpu = |record: &DomainRecording| record.domain.scope == PowerScope::Gpu;
        is_gpu(record) || !self.domains.iter().any(is_gpu)
    }

    /// A reason about a domain: against the run where the experiment's energy holds it.
    pub(super) fn reason(&self, record: &DomainRecording, code: ReasonCode, happened: &str) -> Reason {
        if self.counts(record) {
            Reason::new(code, happened)
        } else {
            Reason::new(ReasonCode::UncountedSensor, format!("{code}: {happened}"))
        }
    }

    pub(crate) fn states_since(&self, from_ns: u64) -> Vec<(PowerDomain, Vec<StateSample>)> {
        let of = |record: &DomainRecording| (record.domain.clone(), record.states_between(from_ns, u64::MAX).to_vec());
        self.domains.iter().filter(|record| !record.states.is_empty()).map(of).collect()
    }

    /// All readings as the contract has them, in the order of time.
    pub(crate) fn samples(&self) -> Vec<PowerSample> {
        let mut samples: Vec<PowerSample> = self.domains.iter().flat_map(domain_samples).collect();
        samples.sort_by_key(|sample| sample.t_ns);
        samples
    }
}

fn domain_samples(record: &DomainRecording) -> impl Iterator<Item = PowerSample> {
    let empty = |t_ns| PowerSample {
        t_ns,
        domain: record.domain.clone(),
        power_w: None,
        curve_kind: None,
        power_average_w: None,
        temperature_c: None,
        clock_mhz: None,
        memory_clock_mhz: None,
        memory_used_bytes: None,
        throttle_reasons: None,
    };
    let kind = record.curve().kind();
    let power = record.points.iter().map(move |point| PowerSample {
        power_w: Some(point.power_w),
        curve_kind: Some(kind),
        ..empty(point.t_ns)
    });
    let failed = record.failures.iter().map(move |t_ns| PowerSample { curve_kind: Some(kind), ..empty(*t_ns) });
    let states = record.states.iter().map(move |StateSample { t_ns, state }| PowerSample {
        power_average_w: state.power_average_w,
        temperature_c: state.temperature_c.map(f64::from),
        clock_mhz: state.clock_mhz.map(f64::from),
        memory_clock_mhz: state.memory_clock_mhz.map(f64::from),
        memory_used_bytes: state.memory_used_bytes,
        throttle_reasons: state.throttle_reasons,
        ..empty(*t_ns)
    });
    power.chain(failed).chain(states)
}

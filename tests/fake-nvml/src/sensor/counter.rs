//! The energy counter.

use super::last_refresh_s;
use crate::load::Busy;
use crate::script::{Counter, Device};

/// What the counter holds at `t_s`, in millijoules.
pub(crate) fn millijoules(device: &Device, work: &[Busy], t_s: f64) -> u64 {
    let counter = &device.counter;
    let seen_to_s = last_refresh_s(t_s, counter.period_ms, counter.phase_ms) - counter.lag_ms / 1e3;
    let (start_mj, from_s, to_s) = match counter.reset_at_s.map(|reset_s| reset_s + device.events_from.at_s(work)) {
        Some(reset_s) if reset_s <= t_s => (0.0, reset_s, seen_to_s.max(reset_s)),
        _ => (counter.start_mj, 0.0, seen_to_s),
    };
    (start_mj + counter.gain * device.joules(work, from_s, to_s) * 1e3).max(0.0) as u64
}

/// How long call number `call` (from 1) takes, in milliseconds.
pub(crate) fn call_ms(counter: &Counter, call: u64) -> f64 {
    if counter.slow_every > 0 && call.is_multiple_of(counter.slow_every) { counter.slow_ms } else { counter.call_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{Power, Square};

    fn device(counter: Counter) -> Device {
        Device { power: Power::Square(Square { period_s: 0.3, ..Square::default() }), counter, ..Device::default() }
    }

    #[test]
    fn it_moves_every_100_ms_and_never_back() {
        let device = device(Counter { phase_ms: 37.0, ..Counter::default() });
        let values: Vec<u64> = (0..5000).map(|ms| millijoules(&device, &[], f64::from(ms) / 1e3)).collect();
        let changes: Vec<usize> = (1..5000).filter(|&ms| values[ms] != values[ms - 1]).collect();
        assert_eq!(changes.len(), 50);
        assert!(changes.iter().all(|ms| ms % 100 == 37));
        assert!(values.is_sorted());
    }

    #[test]
    fn it_holds_the_truth_up_to_its_lag() {
        let device = device(Counter::default());
        let truth_mj = device.joules(&[], 0.0, 1.995) * 1e3;
        assert!((millijoules(&device, &[], 2.05) as f64 - 1e9 - truth_mj).abs() <= 1.0);
        let before = millijoules(&device, &[], -0.05) as f64;
        assert!((before - 1e9 + device.joules(&[], -0.105, 0.0) * 1e3).abs() <= 1.0);
    }

    #[test]
    fn a_reset_starts_again_from_nothing() {
        let device = device(Counter { reset_at_s: Some(2.03), gain: 2.0, ..Counter::default() });
        assert!(millijoules(&device, &[], 2.02) > 1_000_000_000);
        assert_eq!([2.03, 2.09].map(|t_s| millijoules(&device, &[], t_s)), [0, 0]);
        let truth_mj = 2.0 * device.joules(&[], 2.03, 2.995) * 1e3;
        assert!((millijoules(&device, &[], 3.0) as f64 - truth_mj).abs() <= 1.0);
    }

    #[test]
    fn some_calls_are_slow() {
        let counter = Counter { slow_every: 3, ..Counter::default() };
        assert_eq!([1, 2, 3, 4, 6].map(|call| call_ms(&counter, call) as i64), [3, 3, 90, 3, 90]);
        assert_eq!(call_ms(&Counter::default(), 7) as i64, 3);
    }
}

//! Stretches of time, and values that change over time.

use serde::{Deserialize, Serialize};

use crate::load::Busy;

/// From a second to a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Span {
    /// The first moment, in seconds.
    pub from_s: f64,
    /// The first moment after it, in seconds; absent, it never ends.
    pub to_s: Option<f64>,
}

/// What the seconds of a device's events count from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The script's epoch.
    #[default]
    Epoch,
    /// This `on` of the device's load file, counted from 1. Until then no event has happened: a test need not know how long
    /// the program under test takes to start.
    Work(usize),
}

/// A value that goes in straight lines through points (second, value). Before the first point it is the first value, after
/// the last the last; without points there is none, and a call for it is not supported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Curve(pub Vec<(f64, f64)>);

impl Origin {
    /// Second 0 of the events, in seconds after the epoch; infinite while it has not come.
    pub(crate) fn at_s(self, work: &[Busy]) -> f64 {
        match self {
            Self::Epoch => 0.0,
            Self::Work(number) => {
                number.checked_sub(1).and_then(|index| work.get(index)).map_or(f64::INFINITY, |busy| busy.from_s)
            }
        }
    }
}

impl Span {
    /// From one second to another.
    pub fn new(from_s: f64, to_s: f64) -> Self {
        Self { from_s, to_s: Some(to_s) }
    }

    /// From a second on.
    pub fn since(from_s: f64) -> Self {
        Self { from_s, to_s: None }
    }

    /// Whether `t_s` lies within.
    pub fn contains(&self, t_s: f64) -> bool {
        self.from_s <= t_s && self.to_s.is_none_or(|to_s| t_s < to_s)
    }
}

impl Curve {
    /// The same value always.
    pub fn constant(value: f64) -> Self {
        Self(vec![(0.0, value)])
    }

    /// The value at `t_s`.
    pub fn at(&self, t_s: f64) -> Option<f64> {
        let after = self.0.partition_point(|(point_s, _)| *point_s <= t_s);
        let Some(&(next_s, next)) = self.0.get(after) else { return self.0.last().map(|(_, value)| *value) };
        let Some(&(last_s, last)) = after.checked_sub(1).and_then(|before| self.0.get(before)) else {
            return Some(next);
        };
        Some(last + (next - last) * (t_s - last_s) / (next_s - last_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_through_its_points() {
        let curve = Curve(vec![(1.0, 30.0), (2.0, 50.0), (2.0, 60.0), (4.0, 40.0)]);
        let values = [0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 9.0].map(|t_s| curve.at(t_s).unwrap());
        assert_eq!(values.map(|value| value as i64), [30, 30, 40, 60, 50, 40, 40]);
        assert_eq!(Curve::default().at(1.0), None);
    }

    #[test]
    fn events_can_wait_for_work() {
        let work = [1.5, 4.0].map(|from_s| Busy { from_s, to_s: from_s + 1.0 });
        let origins = [Origin::Epoch, Origin::Work(2), Origin::Work(3), Origin::Work(0)];
        let (origin_s, never) = (origins.map(|origin| origin.at_s(&work)), f64::INFINITY);
        assert_eq!(origin_s.map(f64::to_bits), [0.0, 4.0, never, never].map(f64::to_bits));
        assert!(!Span::default().contains(1.0 - never));
    }

    #[test]
    fn a_span_holds_its_start_and_not_its_end() {
        assert!(Span::new(1.0, 2.0).contains(1.0) && !Span::new(1.0, 2.0).contains(2.0));
        assert!(Span::since(1.0).contains(1e9) && !Span::since(1.0).contains(0.9));
    }
}

//! Stretches of time, and values that change over time.

use serde::{Deserialize, Serialize};

/// From a second to a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Span {
    /// The first moment, in seconds.
    pub from_s: f64,
    /// The first moment after it, in seconds; absent, it never ends.
    pub to_s: Option<f64>,
}

/// A value that goes in straight lines through points (second, value). Before the first point it is the first value, after
/// the last the last; without points there is none, and a call for it is not supported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Curve(pub Vec<(f64, f64)>);

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
    fn a_span_holds_its_start_and_not_its_end() {
        assert!(Span::new(1.0, 2.0).contains(1.0) && !Span::new(1.0, 2.0).contains(2.0));
        assert!(Span::since(1.0).contains(1e9) && !Span::since(1.0).contains(0.9));
    }
}

//! Which deployments no other beats at everything.

use serde::{Deserialize, Serialize};

/// Whether less or more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Less is better: energy, latency.
    Minimise,
    /// More is better: throughput.
    Maximise,
}

/// One figure of one deployment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Limits of its interval; none: not known, and nothing can be sure that depends on it.
    pub limits: Option<(f64, f64)>,
}

/// Where a deployment stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// No other is at least as good in every figure and better in one.
    Frontier,
    /// Another is, by the estimates, but not beyond both intervals in every figure.
    Undecided,
    /// Another is, beyond both intervals in every figure.
    Dominated,
}

/// A figure turned so that less is better.
#[derive(Clone, Copy)]
struct Cost {
    value: f64,
    limits: Option<(f64, f64)>,
}

impl Cost {
    fn new(estimate: Estimate, direction: Direction) -> Self {
        match direction {
            Direction::Minimise => Self { value: estimate.value, limits: estimate.limits },
            Direction::Maximise => {
                Self { value: -estimate.value, limits: estimate.limits.map(|(low, high)| (-high, -low)) }
            }
        }
    }

    /// Surely not more than the other.
    fn is_surely_at_most(self, other: Self) -> bool {
        matches!((self.limits, other.limits), (Some((_, high)), Some((low, _))) if high <= low)
    }
}

/// The standing of each point; every point has one estimate for each direction. Points with another number of estimates have none of the
/// figures to be compared by, and stand alone.
pub fn frontier(points: &[Vec<Estimate>], directions: &[Direction]) -> Vec<Standing> {
    let cost = |point: &Vec<Estimate>| -> Option<Vec<Cost>> {
        let all = point.len() == directions.len();
        all.then(|| {
            point.iter().zip(directions).map(|(estimate, direction)| Cost::new(*estimate, *direction)).collect()
        })
    };
    let costs: Vec<Option<Vec<Cost>>> = points.iter().map(cost).collect();
    let standing = |own: &Option<Vec<Cost>>| {
        let Some(own) = own else { return Standing::Frontier };
        let better: Vec<&Vec<Cost>> = costs.iter().flatten().filter(|other| beats(other, own)).collect();
        let surely = |other: &&Vec<Cost>| other.iter().zip(own).all(|(a, b)| a.is_surely_at_most(*b));
        match better.iter().any(surely) {
            true => Standing::Dominated,
            false if better.is_empty() => Standing::Frontier,
            false => Standing::Undecided,
        }
    };
    costs.iter().map(standing).collect()
}

fn beats(a: &[Cost], b: &[Cost]) -> bool {
    let pairs = || a.iter().zip(b);
    pairs().all(|(a, b)| a.value <= b.value) && pairs().any(|(a, b)| a.value < b.value)
}

#[cfg(test)]
mod tests {
    use super::{Direction, Estimate, Standing, frontier};

    fn point(energy: f64, speed: f64, half_width: Option<f64>) -> Vec<Estimate> {
        let estimate = |value: f64| Estimate { value, limits: half_width.map(|half| (value - half, value + half)) };
        vec![estimate(energy), estimate(speed)]
    }

    const DIRECTIONS: [Direction; 2] = [Direction::Minimise, Direction::Maximise];

    #[test]
    fn beaten_beyond_both_intervals_in_everything_is_dominated() {
        let points = [
            point(1.0, 10.0, Some(0.1)),
            point(2.0, 20.0, Some(0.1)),
            point(3.0, 5.0, Some(0.1)),
            // Less fast than the second for as much energy, within the intervals.
            point(2.05, 19.0, Some(0.1)),
        ];
        assert_eq!(
            frontier(&points, &DIRECTIONS),
            [Standing::Frontier, Standing::Frontier, Standing::Dominated, Standing::Undecided]
        );
    }

    #[test]
    fn without_intervals_nothing_is_decided() {
        let points = [point(1.0, 10.0, None), point(3.0, 5.0, None)];
        assert_eq!(frontier(&points, &DIRECTIONS), [Standing::Frontier, Standing::Undecided]);
    }

    #[test]
    fn equals_are_both_on_the_frontier() {
        let points = [point(1.0, 10.0, Some(0.0)), point(1.0, 10.0, Some(0.0))];
        assert_eq!(frontier(&points, &DIRECTIONS), [Standing::Frontier; 2]);
        assert!(frontier(&[], &DIRECTIONS).is_empty());
    }
}

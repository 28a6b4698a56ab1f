//! Power over time, with its exact integral: the truth that sensors are compared with.

use serde::{Deserialize, Serialize};

/// Power in watts as a function of time in seconds, defined for every moment, also before 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// The same power always, in watts.
    Constant(f64),
    /// Two levels in turn.
    Square(Square),
    /// Rises steadily and falls back at once.
    Ramp(Ramp),
    /// Rises and falls steadily.
    Triangle(Triangle),
    /// Levels one after the other, the first from 0 on. Before 0 it is the first level, after the end the last.
    Piecewise(Vec<Step>),
    /// All of these added up.
    Sum(Vec<Power>),
}

/// A square wave: high for the first `duty` of each period, then low.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Square {
    /// Length of a period in seconds.
    pub period_s: f64,
    /// Part of a period that is high, 0 to 1.
    pub duty: f64,
    /// Power of the low part in watts.
    pub low_w: f64,
    /// Power of the high part in watts.
    pub high_w: f64,
    /// A moment at which a period starts, in seconds.
    pub phase_s: f64,
}

/// A sawtooth: from low to high over each period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ramp {
    /// Length of a period in seconds.
    pub period_s: f64,
    /// Power at the start of a period in watts.
    pub low_w: f64,
    /// Power that the end of a period reaches, in watts.
    pub high_w: f64,
    /// A moment at which a period starts, in seconds.
    pub phase_s: f64,
}

/// A triangle wave: up over the first half of each period, down over the second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Triangle {
    /// Length of a period in seconds.
    pub period_s: f64,
    /// Power at the start of a period in watts.
    pub low_w: f64,
    /// Power in the middle of a period in watts.
    pub high_w: f64,
    /// A moment at which a period starts, in seconds.
    pub phase_s: f64,
}

/// One level of [`Power::Piecewise`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// How long the level lasts, in seconds.
    pub duration_s: f64,
    /// The level in watts.
    pub watts: f64,
}

impl Default for Power {
    /// An idle H100.
    fn default() -> Self {
        Self::Constant(70.0)
    }
}

impl Default for Square {
    fn default() -> Self {
        Self { period_s: 1.0, duty: 0.5, low_w: 100.0, high_w: 500.0, phase_s: 0.0 }
    }
}

impl Default for Ramp {
    fn default() -> Self {
        Self { period_s: 1.0, low_w: 100.0, high_w: 500.0, phase_s: 0.0 }
    }
}

impl Default for Triangle {
    fn default() -> Self {
        Self { period_s: 1.0, low_w: 100.0, high_w: 500.0, phase_s: 0.0 }
    }
}

impl Power {
    /// Power at `t_s` in watts.
    pub fn watts(&self, t_s: f64) -> f64 {
        match self {
            Self::Constant(watts) => *watts,
            Self::Square(wave) => wave.watts(t_s),
            Self::Ramp(wave) => {
                wave.low_w + (wave.high_w - wave.low_w) * place(t_s, wave.phase_s, wave.period_s).1 / wave.period_s
            }
            Self::Triangle(wave) => wave.watts(t_s),
            Self::Piecewise(steps) => step_watts(steps, t_s),
            Self::Sum(shapes) => shapes.iter().map(|shape| shape.watts(t_s)).sum(),
        }
    }

    /// Energy from `from_s` to `to_s` in joules; negative when they are the wrong way round.
    pub fn joules(&self, from_s: f64, to_s: f64) -> f64 {
        match self {
            Self::Constant(watts) => watts * (to_s - from_s),
            Self::Square(wave) => wave.integral(to_s) - wave.integral(from_s),
            Self::Ramp(wave) => wave.integral(to_s) - wave.integral(from_s),
            Self::Triangle(wave) => wave.integral(to_s) - wave.integral(from_s),
            Self::Piecewise(steps) => step_integral(steps, to_s) - step_integral(steps, from_s),
            Self::Sum(shapes) => shapes.iter().map(|shape| shape.joules(from_s, to_s)).sum(),
        }
    }

    /// What makes the shape meaningless, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        let period_s = match self {
            Self::Constant(_) => return None,
            Self::Square(wave) if !(0.0..=1.0).contains(&wave.duty) => return Some(format!("duty {}", wave.duty)),
            Self::Square(wave) => wave.period_s,
            Self::Ramp(wave) => wave.period_s,
            Self::Triangle(wave) => wave.period_s,
            Self::Piecewise(steps) => {
                let negative = steps.iter().find(|step| step.duration_s.is_nan() || step.duration_s < 0.0);
                return negative.map(|step| format!("duration_s {}", step.duration_s));
            }
            Self::Sum(shapes) => return shapes.iter().find_map(Self::fault),
        };
        (period_s.is_nan() || period_s <= 0.0).then(|| format!("period_s {period_s}"))
    }
}

impl Square {
    fn watts(&self, t_s: f64) -> f64 {
        let (_, into_s) = place(t_s, self.phase_s, self.period_s);
        if into_s < self.duty * self.period_s { self.high_w } else { self.low_w }
    }

    /// Joules from the phase to `t_s`.
    fn integral(&self, t_s: f64) -> f64 {
        let (periods, into_s) = place(t_s, self.phase_s, self.period_s);
        let high_s = self.duty * self.period_s;
        let joules = |into_s: f64| self.high_w * into_s.min(high_s) + self.low_w * (into_s - high_s).max(0.0);
        periods * joules(self.period_s) + joules(into_s)
    }
}

impl Ramp {
    /// Joules from the phase to `t_s`.
    fn integral(&self, t_s: f64) -> f64 {
        let (periods, into_s) = place(t_s, self.phase_s, self.period_s);
        let slope = (self.high_w - self.low_w) / self.period_s;
        let joules = |into_s: f64| self.low_w * into_s + slope * into_s * into_s / 2.0;
        periods * joules(self.period_s) + joules(into_s)
    }
}

impl Triangle {
    fn watts(&self, t_s: f64) -> f64 {
        let (_, into_s) = place(t_s, self.phase_s, self.period_s);
        let half_s = self.period_s / 2.0;
        self.low_w + (self.high_w - self.low_w) * (1.0 - (into_s - half_s).abs() / half_s)
    }

    /// Joules from the phase to `t_s`.
    fn integral(&self, t_s: f64) -> f64 {
        let (periods, into_s) = place(t_s, self.phase_s, self.period_s);
        let half_s = self.period_s / 2.0;
        let slope = (self.high_w - self.low_w) / half_s;
        let joules = |into_s: f64| {
            let (up_s, down_s) = (into_s.min(half_s), (into_s - half_s).max(0.0));
            self.low_w * up_s + slope * up_s * up_s / 2.0 + self.high_w * down_s - slope * down_s * down_s / 2.0
        };
        periods * joules(self.period_s) + joules(into_s)
    }
}

/// Whole periods since `phase_s`, and seconds into the current one.
fn place(t_s: f64, phase_s: f64, period_s: f64) -> (f64, f64) {
    let periods = ((t_s - phase_s) / period_s).floor();
    (periods, t_s - phase_s - periods * period_s)
}

fn step_watts(steps: &[Step], t_s: f64) -> f64 {
    let mut end_s = 0.0;
    for step in steps {
        end_s += step.duration_s;
        if t_s < end_s {
            return step.watts;
        }
    }
    steps.last().map_or(0.0, |step| step.watts)
}

/// Joules from 0 to `t_s`.
fn step_integral(steps: &[Step], t_s: f64) -> f64 {
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return 0.0 };
    if t_s < 0.0 {
        return first.watts * t_s;
    }
    let (mut joules, mut left_s) = (0.0, t_s);
    for step in steps {
        let within_s = left_s.min(step.duration_s);
        joules += step.watts * within_s;
        left_s -= within_s;
    }
    joules + last.watts * left_s
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> Vec<Power> {
        let steps = [(0.5, 100.0), (1.25, 700.0), (0.25, 50.0)];
        let steps: Vec<Step> = steps.map(|(duration_s, watts)| Step { duration_s, watts }).into();
        let square = Square { period_s: 0.37, duty: 0.3, low_w: 80.0, high_w: 640.0, phase_s: 0.11 };
        let waves = vec![
            Power::Constant(123.0),
            Power::Square(square),
            Power::Ramp(Ramp { period_s: 0.9, phase_s: -0.2, ..Ramp::default() }),
            Power::Triangle(Triangle { period_s: 0.7, phase_s: 0.05, ..Triangle::default() }),
            Power::Piecewise(steps),
        ];
        let sum = Power::Sum(waves.clone());
        [waves, vec![sum]].concat()
    }

    #[test]
    fn the_integral_is_that_of_the_power() {
        for shape in shapes() {
            for (from_s, to_s) in [(-3.1, -0.2), (-0.4, 0.013), (0.0, 1.0), (0.31, 7.77), (5.0, 5.02)] {
                let parts = 200_000;
                let width_s = (to_s - from_s) / f64::from(parts);
                let middle = |part| from_s + (f64::from(part) + 0.5) * width_s;
                let numeric: f64 = (0..parts).map(|part| shape.watts(middle(part)) * width_s).sum();
                let exact = shape.joules(from_s, to_s);
                assert!((numeric - exact).abs() < 5e-4 * exact.abs(), "{shape:?} {from_s} {to_s}: {numeric} {exact}");
            }
        }
    }

    #[test]
    fn neighbouring_integrals_add_up() {
        for shape in shapes() {
            let parts: f64 = (0..1000).map(|part| f64::from(part) * 0.013).map(|t| shape.joules(t, t + 0.013)).sum();
            assert!((parts - shape.joules(0.0, 13.0)).abs() < 1e-6, "{shape:?}");
            assert!((shape.joules(2.0, 1.0) + shape.joules(1.0, 2.0)).abs() < 1e-9);
        }
    }

    #[test]
    fn a_period_of_nothing_is_a_fault() {
        assert_eq!(shapes().iter().find_map(Power::fault), None);
        let never = Power::Square(Square { period_s: 0.0, ..Square::default() });
        assert!(Power::Sum(vec![Power::Constant(1.0), never]).fault().is_some());
        assert!(Power::Piecewise(vec![Step { duration_s: -1.0, watts: 1.0 }]).fault().is_some());
    }
}

//! Power now: the mean over a window that ends at the last refresh.

use super::last_refresh_s;
use crate::load::Busy;
use crate::script::{Device, Grace, Meter};

/// Which of the two windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    /// `nvmlDeviceGetPowerUsage` and field 185.
    Mean,
    /// Field 186.
    Instant,
}

/// Power of the GPU at `t_s`, in milliwatts.
pub(crate) fn milliwatts(device: &Device, work: &[Busy], t_s: f64, window: Window) -> u32 {
    let (from_s, to_s) = bounds(&device.meter, t_s, window);
    (device.meter.gain * device.mean_w(work, from_s, to_s) * 1e3).round() as u32
}

/// Power of a module and the GPU on it at `t_s`, in milliwatts.
pub(crate) fn module_milliwatts(device: &Device, grace: &Grace, work: &[Busy], t_s: f64, window: Window) -> u32 {
    let (from_s, to_s) = bounds(&device.meter, t_s, window);
    let watts = device.mean_w(work, from_s, to_s) + grace.rest.joules(from_s, to_s) / (to_s - from_s);
    (device.meter.gain * watts * 1e3).round() as u32
}

/// When the value at `t_s` was made, in seconds.
pub(crate) fn refreshed_s(meter: &Meter, t_s: f64) -> f64 {
    last_refresh_s(t_s, meter.period_ms, meter.phase_ms)
}

fn bounds(meter: &Meter, t_s: f64, window: Window) -> (f64, f64) {
    let length_ms = match window {
        Window::Mean => meter.mean_ms,
        Window::Instant => meter.instant_ms,
    };
    let to_s = refreshed_s(meter, t_s);
    (to_s - length_ms / 1e3, to_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{Power, Step};

    #[test]
    fn a_step_shows_at_once_in_one_and_slowly_in_the_other() {
        let steps = [(1.0, 100.0), (9.0, 500.0)].map(|(duration_s, watts)| Step { duration_s, watts });
        let device = Device { power: Power::Piecewise(steps.into()), ..Device::default() };
        let at = |t_s, window| milliwatts(&device, &[], t_s, window);
        assert_eq!([0.99, 1.05, 1.15].map(|t_s| at(t_s, Window::Instant)), [100_000, 100_000, 500_000]);
        assert_eq!([1.05, 1.15, 1.55, 2.05].map(|t_s| at(t_s, Window::Mean)), [100_000, 140_000, 300_000, 500_000]);
        let grace = Grace { rest: Power::Constant(50.0) };
        assert_eq!(module_milliwatts(&device, &grace, &[], 1.15, Window::Instant), 550_000);
    }
}

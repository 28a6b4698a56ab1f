//! What the driver tells about a device at a moment, as pure functions of script, work and time.

pub(crate) mod counter;
pub(crate) mod meter;
pub(crate) mod samples;

/// The last moment of refresh at or before `t_s`, in seconds.
fn last_refresh_s(t_s: f64, period_ms: f64, phase_ms: f64) -> f64 {
    // Whole periods are counted in a unit where the usual ones are exact.
    let periods = ((t_s * 1e3 - phase_ms) / period_ms).floor();
    (phase_ms + periods * period_ms) / 1e3
}

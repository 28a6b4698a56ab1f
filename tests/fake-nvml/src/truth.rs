//! What a device really draws, from its script alone.

use crate::load::Busy;
use crate::script::{Device, Script, ScriptError};

impl Device {
    /// Energy from `from_s` to `to_s` in joules, with the given stretches of work.
    pub fn joules(&self, work: &[Busy], from_s: f64, to_s: f64) -> f64 {
        let Some(load) = &self.load else { return self.power.joules(from_s, to_s) };
        if to_s < from_s {
            return -self.joules(work, to_s, from_s);
        }
        let mut joules = self.power.joules(from_s, to_s);
        for busy in work {
            let (start_s, end_s) = (busy.from_s.max(from_s), busy.to_s.min(to_s));
            if start_s < end_s {
                joules -= self.power.joules(start_s, end_s);
                joules += load.busy.joules(start_s - busy.from_s, end_s - busy.from_s);
            }
        }
        joules
    }

    /// Mean power from `from_s` to `to_s` in watts.
    pub(crate) fn mean_w(&self, work: &[Busy], from_s: f64, to_s: f64) -> f64 {
        self.joules(work, from_s, to_s) / (to_s - from_s)
    }

    /// The stretches of work that the load file has now.
    pub(crate) fn work(&self, epoch_ns: u64) -> Vec<Busy> {
        self.load.as_ref().map_or_else(Vec::new, |load| load.read(epoch_ns))
    }
}

impl Script {
    /// Joules that device number `device` really drew between two `CLOCK_MONOTONIC` stamps in nanoseconds. The load file is
    /// read as it is now. The script must say when its epoch is.
    pub fn true_energy_j(&self, device: usize, from_ns: u64, to_ns: u64) -> Result<f64, ScriptError> {
        let epoch_ns = self.epoch_monotonic_ns.ok_or(ScriptError::NoEpoch)?;
        let device = self.devices.get(device).ok_or(ScriptError::NoDevice { index: device })?;
        let seconds = |stamp_ns: u64| (i128::from(stamp_ns) - i128::from(epoch_ns)) as f64 / 1e9;
        Ok(device.joules(&device.work(epoch_ns), seconds(from_ns), seconds(to_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;
    use crate::shape::{Power, Step};

    #[test]
    fn work_replaces_idle() {
        let busy =
            Power::Piecewise(vec![Step { duration_s: 1.0, watts: 300.0 }, Step { duration_s: 1.0, watts: 500.0 }]);
        let load = Some(Load { busy, ..Load::default() });
        let device = Device { power: Power::Constant(100.0), load, ..Device::default() };
        let work = [Busy { from_s: 10.0, to_s: 12.0 }, Busy { from_s: 20.0, to_s: f64::INFINITY }];
        let joules = |from_s, to_s| device.joules(&work, from_s, to_s);
        assert!((joules(0.0, 10.0) - 1000.0).abs() < 1e-9);
        assert!((joules(9.0, 13.0) - (100.0 + 300.0 + 500.0 + 100.0)).abs() < 1e-9);
        assert!((joules(19.5, 20.5) - (50.0 + 150.0)).abs() < 1e-9);
        assert!((joules(10.0, 19.0) - joules(10.0, 15.0) - joules(15.0, 19.0)).abs() < 1e-9);
    }

    #[test]
    fn truth_needs_an_epoch_and_a_device() {
        let script = Script::default();
        assert!(matches!(script.true_energy_j(0, 0, 1), Err(ScriptError::NoEpoch)));
        let script = Script { epoch_monotonic_ns: Some(5), ..script };
        assert!(matches!(script.true_energy_j(1, 0, 1), Err(ScriptError::NoDevice { index: 1 })));
        assert!((script.true_energy_j(0, 0, 2_000_000_000).unwrap() - 140.0).abs() < 1e-9);
    }
}

//! NVIDIA's management library: exactly the experiment's GPUs, found by UUID. Loaded at run time.

use std::time::Duration;

use llem_protocol::{CurveKind, PowerDomain, PowerScope, PowerSourceKind, VisibleGpus};
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::curve::Point;
use super::gpu_facts::{GpuFacts, describe};
use super::raw_nvml::{POWER_AVERAGE, POWER_INSTANT, SCOPE_GPU, SCOPE_MODULE, SampleBuffer, field_w};
use super::{Counter, DeviceState, PowerError, PowerSource};
use crate::clock;

/// Time between two refreshes of the energy counter: 100.0 ms on an H100 with driver 580.
const COUNTER_PERIOD: Duration = Duration::from_millis(100);

/// The driver's buffer holds more than two seconds of samples; it is emptied this often.
const BUFFER_PACE: Duration = Duration::from_millis(500);

/// Power by field is refreshed every 100 ms; asking more often gives the same value again.
const FIELD_PACE: Duration = Duration::from_millis(100);

/// The GPUs of one run.
pub(crate) struct NvmlSource {
    gpus: Vec<Gpu>,
    buffer: SampleBuffer,
}

/// One domain: a GPU, or the module that it sits on.
struct Gpu {
    domain: PowerDomain,
    device: Device<'static>,
    power: PowerReading,
    last_counter_mj: Option<u64>,
}

/// How the power of a domain is read, decided once.
enum PowerReading {
    /// From the driver's own buffer: the time stamp of the newest sample that was taken, in microseconds of `CLOCK_REALTIME`.
    Buffer(u64),
    /// From the field of instant power, with this scope id.
    Instant(u32),
    /// By the call that gives the mean over one second; the driver has neither of the others.
    Average,
}

/// Loads the library and finds all of `uuids`. One that is missing is an error: half of the energy is a wrong number.
pub(crate) fn open(uuids: &[String]) -> Result<(NvmlSource, GpuFacts), NvmlError> {
    // Devices borrow the library; both live until the process ends.
    let nvml: &'static Nvml = Box::leak(Box::new(Nvml::init()?));
    let mut source = NvmlSource { gpus: Vec::new(), buffer: SampleBuffer::new() };
    let mut facts = GpuFacts { driver: nvml.sys_driver_version().ok(), ..GpuFacts::default() };
    for uuid in uuids {
        let device = nvml.device_by_uuid(uuid.as_str())?;
        facts.add(describe(uuid, &device));
        let module = field_w(&device, POWER_INSTANT, SCOPE_MODULE).is_ok();
        if module {
            let device = nvml.device_by_uuid(uuid.as_str())?;
            source.gpus.push(Gpu::new(uuid, PowerScope::Module, device, PowerReading::Instant(SCOPE_MODULE)));
        }
        let reading = gpu_reading(&device, &mut source.buffer);
        source.gpus.push(Gpu::new(uuid, PowerScope::Gpu, device, reading));
    }
    Ok((source, facts))
}

/// The GPUs that NVML shows in this place. One that does not tell its UUID is left out.
pub(crate) fn visible_gpus() -> VisibleGpus {
    let uuids = |nvml: &Nvml| -> Result<Vec<String>, NvmlError> {
        Ok((0..nvml.device_count()?).filter_map(|index| nvml.device_by_index(index).ok()?.uuid().ok()).collect())
    };
    match Nvml::init().and_then(|nvml| uuids(&nvml)) {
        Ok(uuids) => VisibleGpus { uuids, problem: None },
        Err(error) => VisibleGpus { uuids: Vec::new(), problem: Some(error.to_string()) },
    }
}

/// The driver's buffer has more samples than anything else; what was sampled before now belongs to no one.
fn gpu_reading(device: &Device<'_>, buffer: &mut SampleBuffer) -> PowerReading {
    let now_us = clock::clock_pair().realtime_ns / 1000;
    let mut newest_us = 0;
    match buffer.read(device, 0, |sample| newest_us = sample.realtime_us) {
        Ok(()) if newest_us > 0 => PowerReading::Buffer(newest_us.min(now_us)),
        _ if field_w(device, POWER_INSTANT, SCOPE_GPU).is_ok() => PowerReading::Instant(SCOPE_GPU),
        _ => PowerReading::Average,
    }
}

impl Gpu {
    fn new(uuid: &str, scope: PowerScope, device: Device<'static>, power: PowerReading) -> Self {
        let domain = PowerDomain { source: PowerSourceKind::Nvml, id: uuid.to_owned(), scope };
        Self { domain, device, power, last_counter_mj: None }
    }
}

impl PowerSource for NvmlSource {
    fn domains(&self) -> Vec<PowerDomain> {
        self.gpus.iter().map(|gpu| gpu.domain.clone()).collect()
    }

    fn curve_kind(&self, domain: usize) -> CurveKind {
        match self.gpus.get(domain).map(|gpu| &gpu.power) {
            Some(PowerReading::Buffer(_)) => CurveKind::Samples,
            Some(PowerReading::Instant(_)) => CurveKind::Instant,
            Some(PowerReading::Average) | None => CurveKind::MovingAverage,
        }
    }

    fn pace(&self, domain: usize) -> Option<Duration> {
        Some(match self.gpus.get(domain)?.power {
            PowerReading::Buffer(_) => BUFFER_PACE,
            PowerReading::Instant(_) | PowerReading::Average => FIELD_PACE,
        })
    }

    fn power(&mut self, domain: usize, points: &mut Vec<Point>) -> Result<(), PowerError> {
        let gpu = self.gpus.get_mut(domain).ok_or(PowerError::NoReading)?;
        let power_w = match &mut gpu.power {
            PowerReading::Buffer(newest_us) => return drain(&gpu.device, &mut self.buffer, newest_us, points),
            PowerReading::Instant(scope) => field_w(&gpu.device, POWER_INSTANT, *scope)?,
            PowerReading::Average => match gpu.device.power_usage()? {
                0 => return Err(PowerError::NoReading),
                milliwatts => f64::from(milliwatts) / 1e3,
            },
        };
        points.push(Point { t_ns: clock::monotonic_ns(), power_w });
        Ok(())
    }

    fn state(&mut self, domain: usize) -> Option<DeviceState> {
        let gpu = self.gpus.get(domain).filter(|gpu| gpu.domain.scope == PowerScope::Gpu)?;
        let device = &gpu.device;
        Some(DeviceState {
            power_average_w: field_w(device, POWER_AVERAGE, SCOPE_GPU).ok(),
            memory_used_bytes: device.memory_info().ok().map(|memory| memory.used),
            clock_mhz: device.clock_info(Clock::SM).ok(),
            memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
            throttle_reasons: device.current_throttle_reasons().ok().map(|reasons| reasons.bits()),
        })
    }

    fn counter(&mut self, domain: usize) -> Result<Option<Counter>, PowerError> {
        let Some(gpu) = self.gpus.get_mut(domain).filter(|gpu| gpu.domain.scope == PowerScope::Gpu) else {
            return Ok(None);
        };
        let energy_mj = match gpu.device.total_energy_consumption() {
            Ok(energy_mj) => energy_mj,
            // Before Volta there is no counter.
            Err(NvmlError::NotSupported) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let t_ns = clock::monotonic_ns();
        if gpu.last_counter_mj.replace(energy_mj).is_some_and(|last| energy_mj < last) {
            return Err(PowerError::Reset { sensor: gpu.domain.id.clone() });
        }
        Ok(Some(Counter { t_ns, energy_j: energy_mj as f64 / 1e3 }))
    }

    fn counter_period(&self) -> Duration {
        COUNTER_PERIOD
    }
}

/// Appends what the driver's buffer has got since the last time, with its stamps in `CLOCK_MONOTONIC`. Both clocks are read together at
/// each call, so that a step of the wall clock spoils one call at most.
fn drain(
    device: &Device<'_>,
    buffer: &mut SampleBuffer,
    newest_us: &mut u64,
    points: &mut Vec<Point>,
) -> Result<(), PowerError> {
    let clocks = clock::clock_pair();
    let mut last_ns = points.last().map_or(0, |point| point.t_ns);
    let read = buffer.read(device, *newest_us, |sample| {
        *newest_us = sample.realtime_us;
        let age_ns = clocks.realtime_ns.saturating_sub(sample.realtime_us.saturating_mul(1000));
        let t_ns = clocks.monotonic_ns.saturating_sub(age_ns);
        if t_ns > last_ns {
            points.push(Point { t_ns, power_w: sample.power_w });
            last_ns = t_ns;
        }
    });
    Ok(read?)
}

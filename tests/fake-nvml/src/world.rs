//! What the loaded library knows: its script, and when second 0 was.

use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED, nvmlReturn_t,
};

use crate::clock;
use crate::load::Busy;
use crate::script::{Affected, Device, Script, ScriptError, code};

/// The environment variable that names the script.
pub(crate) const SCRIPT_VARIABLE: &str = "FAKE_NVML";

/// Lives as long as the process, or until the library is unloaded: a second `nvmlInit` starts no second epoch.
static WORLD: OnceLock<World> = OnceLock::new();
/// `nvmlInit` less `nvmlShutdown`, as the real library counts.
static USERS: AtomicU32 = AtomicU32::new(0);
/// Held by `nvmlInit` alone, so that two threads do not both read the script.
static INITIALISING: RwLock<()> = RwLock::new(());

/// Script and clock of this process.
pub(crate) struct World {
    pub(crate) script: Script,
    epoch_ns: u64,
    realtime_offset_ns: i128,
    /// Calls of the counter so far, for each device.
    counter_calls: Vec<AtomicU64>,
}

/// A device at the moment of a call.
pub(crate) struct Scene<'world> {
    pub(crate) world: &'world World,
    pub(crate) index: usize,
    pub(crate) device: &'world Device,
    /// Now, in seconds after the epoch.
    pub(crate) t_s: f64,
    /// Now, in seconds after what the device's events count from.
    pub(crate) event_s: f64,
    /// The stretches of work that the load file has now.
    pub(crate) work: Vec<Busy>,
}

/// Starts the library: `nvmlInit`.
pub(crate) fn start() -> Result<(), nvmlReturn_t> {
    let _alone = INITIALISING.write().unwrap_or_else(PoisonError::into_inner);
    if WORLD.get().is_none() {
        let script = script_of_environment().map_err(|error| complain(&error))?;
        let _ = WORLD.set(World::new(script));
    }
    let world = WORLD.get().ok_or(code::UNKNOWN)?;
    if let Some(refusal) = world.script.init_code {
        return Err(refusal);
    }
    USERS.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

/// Ends one use of the library: `nvmlShutdown`.
pub(crate) fn stop() -> Result<(), nvmlReturn_t> {
    let less = |users: u32| users.checked_sub(1);
    USERS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).map(drop).map_err(|_| UNINITIALIZED)
}

/// The world, once `nvmlInit` has succeeded.
pub(crate) fn world() -> Result<&'static World, nvmlReturn_t> {
    if USERS.load(Ordering::SeqCst) == 0 {
        return Err(UNINITIALIZED);
    }
    WORLD.get().ok_or(UNINITIALIZED)
}

fn script_of_environment() -> Result<Script, ScriptError> {
    match std::env::var_os(SCRIPT_VARIABLE) {
        Some(path) => Script::read(Path::new(&path)),
        None => Ok(Script::default()),
    }
}

#[expect(clippy::print_stderr, reason = "a return code cannot say what is wrong with a script")]
fn complain(error: &ScriptError) -> nvmlReturn_t {
    eprintln!("fake NVML: {error}");
    code::UNKNOWN
}

impl World {
    fn new(script: Script) -> Self {
        let epoch_ns = script.epoch_monotonic_ns.unwrap_or_else(clock::monotonic_ns);
        let counter_calls = script.devices.iter().map(|_| AtomicU64::new(0)).collect();
        Self { script, epoch_ns, realtime_offset_ns: clock::realtime_offset_ns(), counter_calls }
    }

    /// Now, in seconds after the epoch.
    pub(crate) fn now_s(&self) -> f64 {
        (i128::from(clock::monotonic_ns()) - i128::from(self.epoch_ns)) as f64 / 1e9
    }

    /// A moment in microseconds after the epoch, as microseconds of the wall clock.
    pub(crate) fn realtime_us(&self, t_us: i64) -> i64 {
        let epoch_us = (i128::from(self.epoch_ns) + self.realtime_offset_ns).div_euclid(1000) as i64;
        epoch_us.saturating_add(t_us)
    }

    /// A device now. A lost one is an error.
    pub(crate) fn scene(&self, index: usize) -> Result<Scene<'_>, nvmlReturn_t> {
        let device = self.script.devices.get(index).ok_or(INVALID_ARGUMENT)?;
        Scene { world: self, index, device, t_s: 0.0, event_s: 0.0, work: Vec::new() }.at_now()
    }
}

impl Scene<'_> {
    /// The same device later, when the call has slept.
    fn at_now(self) -> Result<Self, nvmlReturn_t> {
        let t_s = self.world.now_s();
        let work = self.device.work(self.world.epoch_ns);
        let event_s = t_s - self.device.events_from.at_s(&work);
        match self.device.lost_at_s {
            Some(lost_s) if lost_s <= event_s => Err(self.device.lost_code),
            _ => Ok(Self { t_s, event_s, work, ..self }),
        }
    }

    /// The same device after `milliseconds` of the call.
    pub(crate) fn after(self, milliseconds: f64) -> Result<Self, nvmlReturn_t> {
        sleep(milliseconds);
        self.at_now()
    }

    /// What a scripted failure of this family makes the call return.
    pub(crate) fn unless_failing(self, affected: Affected) -> Result<Self, nvmlReturn_t> {
        let failing = |failure: &&crate::Failure| failure.affected == affected && failure.during.contains(self.event_s);
        match self.device.failures.iter().find(failing) {
            Some(failure) => Err(failure.code),
            None => Ok(self),
        }
    }

    /// The number of this call of the counter, from 1.
    pub(crate) fn next_counter_call(&self) -> u64 {
        self.world.counter_calls.get(self.index).map_or(0, |calls| calls.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Takes the time that a call of the real driver takes.
pub(crate) fn sleep(milliseconds: f64) {
    if let Ok(duration) = Duration::try_from_secs_f64(milliseconds / 1e3) {
        thread::sleep(duration);
    }
}

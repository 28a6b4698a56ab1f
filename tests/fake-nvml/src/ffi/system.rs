//! The library and the driver.

use std::ffi::{CStr, c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND, nvmlReturn_t};

use super::boundary::{Out, export};
use crate::world;

export! {
    fn nvmlInit_v2() { world::start() }
    fn nvmlInitWithFlags(_flags: c_uint) { world::start() }
    fn nvmlShutdown() { world::stop() }
    fn nvmlSystemGetDriverVersion(version: Out<c_char>, length: c_uint) {
        version.put_text(length, &world::world()?.script.driver_version)
    }
    fn nvmlSystemGetNVMLVersion(version: Out<c_char>, length: c_uint) {
        version.put_text(length, &world::world()?.script.nvml_version)
    }
    fn nvmlSystemGetCudaDriverVersion(version: Out<c_int>) {
        version.put(world::world()?.script.cuda_version)
    }
    fn nvmlSystemGetCudaDriverVersion_v2(version: Out<c_int>) {
        version.put(world::world()?.script.cuda_version)
    }
    fn nvmlSystemGetProcessName(pid: c_uint, name: Out<c_char>, length: c_uint) {
        let processes = world::world()?.script.devices.iter().flat_map(|device| &device.processes);
        let mut named = processes.filter(|process| process.pid.numbers().contains(&pid));
        let found = named.find_map(|process| process.name.as_deref()).ok_or(NOT_FOUND)?;
        name.put_text(length, found)
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(code: nvmlReturn_t) -> *const c_char {
    message(code).as_ptr()
}

fn message(code: nvmlReturn_t) -> &'static CStr {
    match code {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        5 => c"Already Initialized",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        8 => c"Insufficient External Power",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        15 => c"GPU is lost",
        16 => c"GPU requires reset",
        18 => c"Driver/library version mismatch",
        25 => c"Version mismatch",
        _ => c"Unknown Error",
    }
}

//! Finding a device, and what it is.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlPciInfo_t, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_t,
};

use super::boundary::{Answer, Handle, Out, TextIn, export, fixed_text};
use crate::script::{Affected, Device};
use crate::world;

/// PCI identity of an H100 SXM5 80 GB and its maker.
const PCI_DEVICE_ID: c_uint = 0x2330_10DE;
const PCI_SUBSYSTEM_ID: c_uint = 0x16C1_10DE;

export! {
    fn nvmlDeviceGetCount_v2(count: Out<c_uint>) {
        count.put(world::world()?.script.devices.len() as c_uint)
    }
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, handle: Out<Handle>) {
        world::world()?.scene(index as usize)?;
        handle.put(Handle::of_index(index as usize))
    }
    fn nvmlDeviceGetHandleByUUID(uuid: TextIn, handle: Out<Handle>) {
        let uuid = uuid.read()?;
        find(&handle, |device| device.uuid == uuid)
    }
    fn nvmlDeviceGetHandleByPciBusId_v2(address: TextIn, handle: Out<Handle>) {
        let address = address.read()?;
        find(&handle, |device| device.pci_bus_id.eq_ignore_ascii_case(address))
    }
    fn nvmlDeviceGetIndex(handle: Handle, index: Out<c_uint>) {
        index.put(handle.scene(Affected::Settings)?.index as c_uint)
    }
    fn nvmlDeviceGetName(handle: Handle, name: Out<c_char>, length: c_uint) {
        name.put_text(length, &handle.scene(Affected::Settings)?.device.name)
    }
    fn nvmlDeviceGetUUID(handle: Handle, uuid: Out<c_char>, length: c_uint) {
        uuid.put_text(length, &handle.scene(Affected::Settings)?.device.uuid)
    }
    fn nvmlDeviceGetVbiosVersion(handle: Handle, version: Out<c_char>, length: c_uint) {
        version.put_text(length, &handle.scene(Affected::Settings)?.device.vbios)
    }
    fn nvmlDeviceGetCudaComputeCapability(handle: Handle, major: Out<c_int>, minor: Out<c_int>) {
        let capability = handle.scene(Affected::Settings)?.device.compute_capability;
        major.put(capability.0)?;
        minor.put(capability.1)
    }
    fn nvmlDeviceGetNumGpuCores(handle: Handle, cores: Out<c_uint>) {
        cores.put(handle.scene(Affected::Settings)?.device.cuda_cores.ok_or(NOT_SUPPORTED)?)
    }
    fn nvmlDeviceGetPciInfo_v3(handle: Handle, info: Out<nvmlPciInfo_t>) {
        info.put(pci_info(&handle.scene(Affected::Settings)?.device.pci_bus_id)?)
    }
}

fn find(handle: &Out<Handle>, wanted: impl Fn(&Device) -> bool) -> Answer {
    let world = world::world()?;
    let index = world.script.devices.iter().position(wanted).ok_or(NOT_FOUND)?;
    world.scene(index)?;
    handle.put(Handle::of_index(index))
}

fn pci_info(address: &str) -> Result<nvmlPciInfo_t, nvmlReturn_t> {
    let parts: Vec<c_uint> =
        address.split([':', '.']).map_while(|part| c_uint::from_str_radix(part, 16).ok()).collect();
    let [domain, bus, device, _function] = parts[..] else { return Err(INVALID_ARGUMENT) };
    Ok(nvmlPciInfo_t {
        busIdLegacy: fixed_text(&format!("{domain:04X}:{bus:02X}:{device:02X}.0")),
        domain,
        bus,
        device,
        pciDeviceId: PCI_DEVICE_ID,
        pciSubSystemId: PCI_SUBSYSTEM_ID,
        busId: fixed_text(address),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let info = pci_info("00000000:C1:0A.0").unwrap();
        assert_eq!((info.domain, info.bus, info.device), (0, 0xC1, 0x0A));
        assert_eq!(info.busIdLegacy[5] as u8, b'C');
        assert!(pci_info("here").is_err());
    }
}

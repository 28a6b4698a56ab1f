//! The two calls that nvml-wrapper's safe interface cannot make: fields with a scope id, and samples without an allocation per call.

use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper_sys::bindings::{
    nvmlFieldValue_t, nvmlReturn_t, nvmlSample_t, nvmlSamplingType_enum_NVML_TOTAL_POWER_SAMPLES, nvmlValueType_t,
};

/// `NVML_FI_DEV_POWER_AVERAGE` of nvml.h: mean over one second in milliwatts.
pub(super) const POWER_AVERAGE: u32 = 185;

/// `NVML_FI_DEV_POWER_INSTANT` of nvml.h: power without that mean, in milliwatts.
pub(super) const POWER_INSTANT: u32 = 186;

/// Scope id of a GPU with its memory.
pub(super) const SCOPE_GPU: u32 = 0;

/// Scope id of a whole module, with its processor.
pub(super) const SCOPE_MODULE: u32 = 1;

/// `NVML_VALUE_TYPE_UNSIGNED_INT` of nvml.h.
const UNSIGNED_INT: u32 = 1;

/// `NVML_ERROR_NOT_FOUND` of nvml.h: there are no samples newer than those that were seen.
const NOT_FOUND: nvmlReturn_t = 6;

/// More samples than any driver was seen to hold (119).
const MOST_SAMPLES: usize = 1024;

/// One sample of the driver's own buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BufferedPower {
    /// Microseconds of `CLOCK_REALTIME` since 1970.
    pub(super) realtime_us: u64,
    /// Watts.
    pub(super) power_w: f64,
}

/// A buffer that is reused for every call.
pub(super) struct SampleBuffer {
    raw: Vec<nvmlSample_t>,
}

impl SampleBuffer {
    #[expect(unsafe_code, reason = "a C struct of integers, for which zero is a value")]
    pub(super) fn new() -> Self {
        // SAFETY: nvmlSample_t is an integer and a union of numbers; all bits zero are valid for both.
        let zero: nvmlSample_t = unsafe { std::mem::zeroed() };
        Self { raw: vec![zero; MOST_SAMPLES] }
    }

    /// Hands every power sample newer than `after_us` to `take`, oldest first.
    #[expect(unsafe_code, reason = "nvml-wrapper's own call allocates each time and asks twice")]
    pub(super) fn read(
        &mut self,
        device: &Device<'_>,
        after_us: u64,
        mut take: impl FnMut(BufferedPower),
    ) -> Result<(), NvmlError> {
        let call = symbol(device.nvml().lib().nvmlDeviceGetSamples.as_ref())?;
        let mut value_type: nvmlValueType_t = 0;
        let mut count = MOST_SAMPLES as u32;
        let kind = nvmlSamplingType_enum_NVML_TOTAL_POWER_SAMPLES;
        // SAFETY: the handle lives as long as the library; the pointers are to locals and to `count` initialised samples.
        let code = unsafe {
            call(device.handle(), kind, after_us, &raw mut value_type, &raw mut count, self.raw.as_mut_ptr())
        };
        if code == NOT_FOUND {
            return Ok(());
        }
        nvml_try(code)?;
        if value_type != UNSIGNED_INT {
            return Err(NvmlError::UnexpectedVariant(value_type));
        }
        for sample in self.raw.iter().take(count as usize).filter(|sample| sample.timeStamp > after_us) {
            // SAFETY: the call said that the values are unsigned integers.
            let milliwatts = unsafe { sample.sampleValue.uiVal };
            // 0 is what drivers give that do not know: no reading.
            if milliwatts > 0 {
                take(BufferedPower { realtime_us: sample.timeStamp, power_w: f64::from(milliwatts) / 1e3 });
            }
        }
        Ok(())
    }
}

/// A field in milliwatts, as watts. 0 is what drivers give that do not know: no reading.
#[expect(unsafe_code, reason = "nvml-wrapper cannot set a field's scope id")]
pub(super) fn field_w(device: &Device<'_>, field: u32, scope: u32) -> Result<f64, NvmlError> {
    let call = symbol(device.nvml().lib().nvmlDeviceGetFieldValues.as_ref())?;
    // SAFETY: nvmlFieldValue_t is made of integers and a union of numbers; all bits zero are valid.
    let mut value: nvmlFieldValue_t = unsafe { std::mem::zeroed() };
    value.fieldId = field;
    value.scopeId = scope;
    // SAFETY: the handle lives as long as the library; the pointer is to one initialised value.
    nvml_try(unsafe { call(device.handle(), 1, &raw mut value) })?;
    nvml_try(value.nvmlReturn)?;
    if value.valueType != UNSIGNED_INT {
        return Err(NvmlError::UnexpectedVariant(value.valueType));
    }
    // SAFETY: the driver said that the value is an unsigned integer.
    let milliwatts = unsafe { value.value.uiVal };
    if milliwatts == 0 { Err(NvmlError::NoData) } else { Ok(f64::from(milliwatts) / 1e3) }
}

fn symbol<F, E>(found: Result<&F, E>) -> Result<&F, NvmlError> {
    found.map_err(|_| NvmlError::NotSupported)
}

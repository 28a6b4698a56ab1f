//! Where C and Rust meet: return codes, addresses, handles. The only dereferences of the crate.

use std::ffi::{CStr, c_char, c_uint};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_st, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_UNKNOWN as UNKNOWN_ERROR, nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t,
};

use crate::script::Affected;
use crate::world::{self, Scene};

/// What a function of the library comes to before it is a return code.
pub(super) type Answer = Result<(), nvmlReturn_t>;

/// Defines exported functions. Their bodies are [`Answer`]s; a panic becomes an unknown error.
macro_rules! export {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $type),*) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
            $crate::ffi::boundary::code_of(|| $body)
        }
    )*};
}
pub(super) use export;

/// Runs the body of an exported function.
pub(super) fn code_of(body: impl FnOnce() -> Answer) -> nvmlReturn_t {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => UNKNOWN_ERROR,
    }
}

/// Where a caller wants values: the address of one, or of an array.
#[repr(transparent)]
pub(super) struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    /// Writes the value.
    pub(super) fn put(&self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: nvml.h demands an address that a value of this type can be written to; null was refused above.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Reads what the caller put there.
    pub(super) fn get(&self) -> Result<T, nvmlReturn_t> {
        if self.0.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: used for arguments that nvml.h calls in and out, so the caller has written a value there.
        Ok(unsafe { self.0.read() })
    }

    /// Writes values one after the other. The caller of this function has checked that there is room.
    pub(super) fn put_all(&self, values: impl IntoIterator<Item = T>) -> Answer {
        for (index, value) in values.into_iter().enumerate() {
            self.nth(index).put(value)?;
        }
        Ok(())
    }

    /// The place of one value of an array; null stays null.
    pub(super) fn nth(&self, index: usize) -> Self {
        Self(if self.0.is_null() { self.0 } else { self.0.wrapping_add(index) })
    }

    /// Whether the caller only asks how much there is.
    pub(super) fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

impl Out<c_char> {
    /// Writes a text that ends in NUL into a buffer of `length` bytes.
    pub(super) fn put_text(&self, length: c_uint, text: &str) -> Answer {
        if text.len() >= length as usize {
            return Err(INSUFFICIENT_SIZE);
        }
        self.put_all(text.bytes().chain([0]).map(|byte| byte as c_char))
    }
}

/// A text that a caller hands in.
#[repr(transparent)]
pub(super) struct TextIn(*const c_char);

impl TextIn {
    pub(super) fn read(&self) -> Result<&str, nvmlReturn_t> {
        if self.0.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: nvml.h demands a text that ends in NUL and lives for the call; null was refused above.
        unsafe { CStr::from_ptr(self.0) }.to_str().map_err(|_| INVALID_ARGUMENT)
    }
}

/// `nvmlDevice_t`: one more than the device's index, so that null is none.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Handle(*mut nvmlDevice_st);

impl Handle {
    pub(super) fn of_index(index: usize) -> Self {
        Self(std::ptr::without_provenance_mut(index + 1))
    }

    /// The device now, unless it is lost or calls of this family fail.
    pub(super) fn scene(self, affected: Affected) -> Result<Scene<'static>, nvmlReturn_t> {
        let index = self.0.addr().checked_sub(1).ok_or(INVALID_ARGUMENT)?;
        world::world()?.scene(index)?.unless_failing(affected)
    }
}

/// A text in a field of fixed length, cut off where it does not fit.
pub(super) fn fixed_text<const LENGTH: usize>(text: &str) -> [c_char; LENGTH] {
    let mut field = [0; LENGTH];
    for (place, byte) in field.iter_mut().take(LENGTH.saturating_sub(1)).zip(text.bytes()) {
        *place = byte as c_char;
    }
    field
}

//! The functions of nvml.h. Those that are not here do not exist in the library either.

#![expect(unsafe_code, reason = "C calls these functions and hands them addresses to write to")]

mod boundary;
mod device;
mod power;
mod settings;
mod system;

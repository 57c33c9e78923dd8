//! Which CUDA devices this machine has. A machine without a driver gets an error value, never a panic.
#![allow(unsafe_code)]

use cudarc::driver::result::{device, init};
use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, DriverError};

/// A CUDA device of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Index by which the driver knows it.
    pub ordinal: i32,
    /// Name the vendor gave it.
    pub name: String,
    /// Compute capability, for example (9, 0).
    pub compute_capability: (i32, i32),
    /// Bytes of its memory.
    pub memory_bytes: usize,
    /// Bytes a second that its memory could move by clock and width; nine tenths of it are seen at best.
    pub memory_rate: u64,
}

/// Why the devices could not be listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The driver library is not installed.
    #[error("the CUDA driver library (libcuda) was not found; install an NVIDIA driver or run on the CPU")]
    NoDriver,
    /// The driver answered with an error.
    #[error("the CUDA driver failed while {action}: {source}")]
    Driver {
        /// What was asked.
        action: &'static str,
        /// What it answered.
        source: DriverError,
    },
}

/// Lists the devices; empty where a driver is installed but no device is.
///
/// # Errors
/// [`ProbeError::NoDriver`] without a driver library, [`ProbeError::Driver`] if the driver refuses to answer.
pub fn devices() -> Result<Vec<DeviceInfo>, ProbeError> {
    // SAFETY: the call only opens the driver library by its usual names and closes it; the library's initialisers
    // are those of the vendor's driver, which every later call would run as well.
    if !unsafe { sys::is_culib_present() } {
        return Err(ProbeError::NoDriver);
    }
    match init() {
        Ok(()) => {}
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(Vec::new()),
        Err(source) => return Err(ProbeError::Driver { action: "starting", source }),
    }
    let num_devices = device::get_count().map_err(failed("counting devices"))?;
    (0..num_devices).map(describe).collect()
}

/// Bytes of a device's memory that nobody uses. Opens the device for a moment, which itself takes some of it.
///
/// # Errors
/// [`ProbeError::Driver`] if the driver cannot open the device or refuses to answer.
pub fn free_bytes(ordinal: i32) -> Result<u64, ProbeError> {
    let context = CudaContext::new(usize::try_from(ordinal).unwrap_or(usize::MAX));
    let (free, _) = context
        .and_then(|context| context.mem_get_info())
        .map_err(failed("opening a device and reading its free memory"))?;
    Ok(free as u64)
}

fn describe(ordinal: i32) -> Result<DeviceInfo, ProbeError> {
    let handle = device::get(ordinal).map_err(failed("opening a device"))?;
    let name = device::get_name(handle).map_err(failed("reading a device's name"))?;
    let major = attribute(handle, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(handle, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // SAFETY: `handle` came from `device::get` above, after `init` succeeded, so it names a device of this process.
    let memory_bytes = unsafe { device::total_mem(handle) }.map_err(failed("reading a device's memory"))?;
    let kilohertz = attribute(handle, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
    let bits = attribute(handle, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
    // Twice in a clock.
    let memory_rate = 2 * 1000 * u64::from(kilohertz.unsigned_abs()) * u64::from(bits.unsigned_abs()) / 8;
    Ok(DeviceInfo { ordinal, name, compute_capability: (major, minor), memory_bytes, memory_rate })
}

fn attribute(handle: CUdevice, attribute: CUdevice_attribute) -> Result<i32, ProbeError> {
    // SAFETY: callers pass handles from `device::get`, and the attribute is one of the driver's own enumeration.
    unsafe { device::get_attribute(handle, attribute) }.map_err(failed("reading a device's attribute"))
}

fn failed(action: &'static str) -> impl Fn(DriverError) -> ProbeError {
    move |source| ProbeError::Driver { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_answers_on_every_machine() {
        match devices() {
            Ok(devices) => {
                for device in devices {
                    assert!(!device.name.is_empty());
                    // Somebody may have the device to himself.
                    assert!(free_bytes(device.ordinal).unwrap_or(0) <= device.memory_bytes as u64);
                }
            }
            Err(error) => assert!(error.to_string().contains("CUDA driver"), "{error}"),
        }
    }
}

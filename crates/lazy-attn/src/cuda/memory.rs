//! Memory of a device: how much there is, taking some, and waiting for it.

use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, ValidAsZeroBits};

use super::attention::{CudaDevice, device_error};
use crate::error::AttnError;

/// Bytes of a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Nobody uses them.
    pub free: u64,
    /// All of them.
    pub total: u64,
}

impl CudaDevice {
    /// What the device's memory holds now, whoever uses it.
    ///
    /// # Errors
    /// [`AttnError::Device`] if the driver does not answer.
    pub fn memory(&self) -> Result<DeviceMemory, AttnError> {
        let (free, total) =
            self.stream().context().mem_get_info().map_err(device_error("asking for free memory"))?;
        Ok(DeviceMemory { free: free as u64, total: total as u64 })
    }

    /// `len` elements of zeros.
    ///
    /// # Errors
    /// [`AttnError::Device`] if the device has no room.
    pub fn alloc<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<CudaSlice<T>, AttnError> {
        self.stream().alloc_zeros::<T>(len.max(1)).map_err(device_error(
            "allocating memory; use a smaller KV store, fewer tokens a step or another device",
        ))
    }

    /// Copies `from` to `to`, in stream order.
    ///
    /// # Errors
    /// [`AttnError::Mismatch`] if they have different lengths, [`AttnError::Device`] if the copy fails.
    pub fn copy<T>(&self, from: &impl DevicePtr<T>, to: &mut impl DevicePtrMut<T>) -> Result<(), AttnError> {
        AttnError::check_size("length of a copy", to.len(), from.len())?;
        self.stream().memcpy_dtod(from, to).map_err(device_error("copying on the device"))
    }

    /// Fills `memory` with zeros, in stream order.
    ///
    /// # Errors
    /// [`AttnError::Device`] if it fails.
    pub fn zero<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        memory: &mut impl DevicePtrMut<T>,
    ) -> Result<(), AttnError> {
        self.stream().memset_zeros(memory).map_err(device_error("writing zeros"))
    }

    /// Waits for everything that was launched.
    ///
    /// # Errors
    /// [`AttnError::Device`] if any of it failed.
    pub fn synchronize(&self) -> Result<(), AttnError> {
        self.stream().synchronize().map_err(device_error("waiting for the device"))
    }
}

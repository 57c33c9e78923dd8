//! Copies of KV blocks on a device. Launching is unsafe: every block is checked here.
#![allow(unsafe_code)]

use std::collections::HashSet;

use super::attention::{CudaDevice, device_error, kernel_error};
use super::store::CudaKvStore;
use crate::error::AttnError;
use crate::reencode::BlockCopy;
use crate::rope::RopeTable;
use cudarc::driver::{CudaSlice, DevicePtr};
use lazy_attn_sys::abi::{DeviceAddress, KvDtype, LaCopy, LaCopyBlocks, LaRope};
use lazy_attn_sys::{ElementType, Launch};

/// Checked copies in device memory.
#[derive(Debug)]
pub struct BlockCopies {
    entries: CudaSlice<LaCopy>,
    num_blocks_min: u32,
    /// Whether a block is rotated where it is.
    is_in_place: bool,
}

impl BlockCopies {
    /// Uploads `copies`, which are done in any order: no target is read or written by another copy.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] if one is, or there are too many,
    /// [`AttnError::Device`] if the device has no room.
    pub fn new(device: &CudaDevice, copies: &[BlockCopy]) -> Result<BlockCopies, AttnError> {
        const MAX_COPIES: usize = 1 << 24;
        if copies.len() > MAX_COPIES {
            let (value, rule) = (copies.len() as u64, "a launch takes 2^24");
            return Err(AttnError::Unsupported { what: "copies", value, rule });
        }
        let sources: HashSet<u32> = copies.iter().map(|copy| copy.from.0).collect();
        let moved = copies.iter().filter(|copy| copy.from == copy.to);
        let moved: HashSet<u32> = moved.map(|copy| copy.to.0).collect();
        let mut targets = HashSet::new();
        for copy in copies {
            let is_moved = copy.from == copy.to;
            let is_read = if is_moved { false } else { sources.contains(&copy.to.0) };
            let is_copied_too = !is_moved && moved.contains(&copy.from.0);
            if is_read || is_copied_too || !targets.insert(copy.to.0) {
                let (value, rule) = (u64::from(copy.to.0), "another copy reads or writes it");
                return Err(AttnError::Unsupported { what: "target of a copy", value, rule });
            }
        }
        let highest = sources.iter().chain(&targets).max().map_or(0, |&block| block.saturating_add(1));
        let entry = |copy: &BlockCopy| LaCopy {
            from: copy.from.0,
            to: copy.to.0,
            distance: copy.distance,
            reserved: 0,
        };
        let entries: Vec<LaCopy> = copies.iter().map(entry).collect();
        let entries = device.stream().clone_htod(&entries).map_err(device_error("uploading copies"))?;
        Ok(BlockCopies { entries, num_blocks_min: highest, is_in_place: !moved.is_empty() })
    }
}

/// A rotation table in device memory.
#[derive(Debug)]
pub struct CudaRope {
    turns: CudaSlice<u64>,
    rotary_dim: u32,
}

impl CudaRope {
    /// Uploads `rope`.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] if not a multiple of 16 dimensions rotate, [`AttnError::Device`] if the device has no
    /// room.
    pub fn new(device: &CudaDevice, rope: &RopeTable) -> Result<CudaRope, AttnError> {
        let rotary_dim = rope.rotary_dim() as u32;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(16) {
            let rule = "re-encoding takes multiples of 16 from 16";
            return Err(AttnError::Unsupported { what: "rotary_dim", value: u64::from(rotary_dim), rule });
        }
        let turns = device.stream().clone_htod(rope.turns()).map_err(device_error("uploading a rotation"))?;
        Ok(CudaRope { turns, rotary_dim })
    }
}

impl CudaDevice {
    /// Copies blocks of one layer, keys and values, as they are, and their scales.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] if the store lacks the layer or a block, [`AttnError::Device`] if the launch fails.
    pub fn copy_blocks(
        &self,
        store: &mut CudaKvStore,
        layer: u32,
        copies: &BlockCopies,
    ) -> Result<(), AttnError> {
        self.launch_copies(store, layer, copies, (Launch::CopyBlocks, LaRope::default()))
    }

    /// Copies blocks of one layer, and rotates the keys of each by its distance. 8-bit keys get another scale, and are not
    /// rotated where they are.
    ///
    /// What deferred positions make unnecessary; here for comparison (Block-Attention, arXiv:2409.15355).
    ///
    /// # Errors
    /// As for [`CudaDevice::copy_blocks`].
    pub fn reencode_blocks(
        &self,
        store: &mut CudaKvStore,
        layer: u32,
        copies: &BlockCopies,
        rope: &CudaRope,
    ) -> Result<(), AttnError> {
        let shape = store.shape();
        if rope.rotary_dim > shape.head_dim {
            let (value, rule) = (u64::from(rope.rotary_dim), "it must not be above head_dim");
            return Err(AttnError::Unsupported { what: "rotary_dim", value, rule });
        }
        if shape.dtype == KvDtype::Fp8E4m3 && copies.is_in_place {
            let rule = "they are rotated into another block only";
            return Err(AttnError::Unsupported {
                what: "bits of keys rotated where they are",
                value: 8,
                rule,
            });
        }
        let which = match shape.dtype {
            KvDtype::Fp8E4m3 => Launch::ReencodeFp8(shape.head_dim),
            KvDtype::F16 => Launch::Reencode(ElementType::F16, shape.head_dim),
            _ => Launch::Reencode(ElementType::Bf16, shape.head_dim),
        };
        let turns = DeviceAddress(rope.turns.device_ptr(self.stream()).0);
        let rope = LaRope { turns, rotary_dim: rope.rotary_dim, scale_log2: 0.0 };
        self.launch_copies(store, layer, copies, (which, rope))
    }

    fn launch_copies(
        &self,
        store: &mut CudaKvStore,
        layer: u32,
        copies: &BlockCopies,
        (which, rope): (Launch, LaRope),
    ) -> Result<(), AttnError> {
        let layout = store.layout();
        if layer >= layout.num_layers {
            let rule = "the store has fewer layers";
            return Err(AttnError::Unsupported { what: "layer", value: u64::from(layer), rule });
        }
        if copies.num_blocks_min > layout.num_blocks {
            let (value, rule) = (u64::from(copies.num_blocks_min), "the store has fewer blocks");
            return Err(AttnError::Unsupported { what: "highest block id + 1", value, rule });
        }
        let params = LaCopyBlocks {
            kv: store.layer(self, layer),
            rope,
            copies: DeviceAddress(copies.entries.device_ptr(self.stream()).0),
            num_copies: copies.entries.len() as u32,
            reserved: 0,
        };
        // SAFETY: blocks lie inside the store, as was checked, and no target is read or written twice, as `BlockCopies`
        // checked; the borrows outlive the launch in stream order.
        unsafe { self.kernels().launch(self.stream(), which, &params) }
            .map_err(kernel_error("copying blocks"))
    }
}

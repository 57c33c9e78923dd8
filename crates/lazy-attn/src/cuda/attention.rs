//! A device with its kernels, and attention on it. Launching is unsafe: what the kernels read through device addresses
//! is checked here and by the planner.
#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use lazy_attn_sys::abi::{DeviceAddress, LaAppend, LaAttend, LaMerge, LaPartials, LaRope};
use lazy_attn_sys::{Comparison, KernelError, KernelShape, Kernels, Start, TileClass};
use lazy_attn_types::StoredKeys;

use super::{plan::DevicePlan, store::CudaKvStore};
use crate::{cpu::AttnParams, error::AttnError, schedule::Workers};

/// A device, a stream on it, and the kernels.
#[derive(Debug)]
pub struct CudaDevice {
    stream: Arc<CudaStream>,
    kernels: Kernels,
}

impl CudaDevice {
    /// Opens device `ordinal` and loads `image`, the fat binary of the kernels.
    ///
    /// # Errors
    /// [`AttnError::Device`] if there is no such device, or the image is not for it.
    pub fn new(ordinal: usize, image: Vec<u8>) -> Result<CudaDevice, AttnError> {
        let devices = lazy_attn_sys::devices().map_err(|error| AttnError::Device {
            action: "looking for devices",
            reason: error.to_string(),
        })?;
        if ordinal >= devices.len() {
            return Err(AttnError::Unsupported {
                what: "device ordinal",
                value: ordinal as u64,
                rule: "this machine has fewer CUDA devices",
            });
        }
        let context = CudaContext::new(ordinal).map_err(device_error("opening a device"))?;
        // SAFETY: everything this device does goes to its one stream, so that stream order is all the order it needs.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(device_error("making a stream"))?;
        CudaDevice::on_stream(stream, image)
    }

    /// The same on a stream that the caller owns.
    ///
    /// # Errors
    /// [`AttnError::Device`] if the image is not for this device.
    pub fn on_stream(stream: Arc<CudaStream>, image: Vec<u8>) -> Result<CudaDevice, AttnError> {
        let kernels = Kernels::load(stream.context(), image).map_err(kernel_error("loading the kernels"))?;
        Ok(CudaDevice { stream, kernels })
    }

    /// The stream all work goes to.
    #[must_use]
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub(super) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Query tokens of an item at most, for groups of `group_size` query heads: what [`crate::PlanConfig::cuda`] is given.
    #[must_use]
    pub fn max_item_tokens(&self, group_size: u32) -> u32 {
        (self.kernels.widest().max_rows() / group_size.max(1)).max(1)
    }

    /// Workers per KV head for each tile class.
    ///
    /// # Errors
    /// [`AttnError::Device`] for a shape without kernels.
    pub fn workers(&self, store: &CudaKvStore, params: &AttnParams) -> Result<Workers, AttnError> {
        let num_kv_heads = store.layout().num_kv_heads;
        let mut per_class = [0; TileClass::ALL.len()];
        for (workers, class) in per_class.iter_mut().zip(TileClass::ALL) {
            let launch = self.kernels.attend_launch(class, store.shape());
            let launch = launch.map_err(kernel_error("choosing a kernel"))?;
            *workers = (launch.num_blocks / num_kv_heads).max(1);
        }
        let narrow_tile = TileClass::N16.tile_tokens(store.shape());
        Ok(Workers { per_class, narrow_tile, group_size: params.num_q_heads / num_kv_heads })
    }

    /// Workers per KV head at most, of any class and shape.
    pub(super) fn max_workers(&self) -> u32 {
        let classes = TileClass::ALL.into_iter();
        let launches =
            classes.flat_map(|class| KernelShape::ALL.map(|shape| self.kernels.attend_launch(class, shape)));
        launches.flatten().map(|launch| launch.num_blocks).max().unwrap_or(1)
    }
}

pub(super) fn device_error(action: &'static str) -> impl Fn(cudarc::driver::DriverError) -> AttnError {
    move |error| AttnError::Device { action, reason: error.to_string() }
}

pub(super) fn kernel_error(action: &'static str) -> impl Fn(KernelError) -> AttnError {
    move |error| AttnError::Device { action, reason: error.to_string() }
}

/// Attention on a device: writes and reads a [`CudaKvStore`] as a [`DevicePlan`] says.
///
/// Elements of queries, keys, values and output are the bits of the store's element type; of bf16 if it has 8 bits.
#[derive(Debug)]
pub struct CudaAttention {
    device: Arc<CudaDevice>,
    params: AttnParams,
    turns: CudaSlice<u64>,
    /// `[num_slots, num_q_heads, head_dim]`
    partial_out: CudaSlice<f32>,
    /// `[num_slots, num_q_heads]`
    partial_lse: CudaSlice<f32>,
    window: u32,
    keys: StoredKeys,
}

impl CudaAttention {
    /// Attention with room for `max_slots` partials of heads of `head_dim` elements.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] if not a multiple of 16 dimensions rotate, or a group has more than 16 query heads,
    /// [`AttnError::Device`] if the device has no room.
    pub fn new(
        device: &Arc<CudaDevice>,
        store: &CudaKvStore,
        params: AttnParams,
        max_slots: usize,
        window: u32,
    ) -> Result<CudaAttention, AttnError> {
        let layout = store.layout();
        let unsupported =
            |what, value: usize, rule| Err(AttnError::Unsupported { what, value: value as u64, rule });
        let rotary_dim = params.rope.rotary_dim();
        if !rotary_dim.is_multiple_of(16) || rotary_dim > layout.head_dim as usize {
            return unsupported(
                "rotary_dim",
                rotary_dim,
                "the CUDA kernels take multiples of 16 up to head_dim",
            );
        }
        let (num_q_heads, num_kv_heads) = (params.num_q_heads, layout.num_kv_heads);
        if num_q_heads == 0 || !num_q_heads.is_multiple_of(num_kv_heads) || num_q_heads / num_kv_heads > 16 {
            let rule = "it must be one to sixteen times the store's KV heads";
            return unsupported("num_q_heads", num_q_heads as usize, rule);
        }
        let heads = max_slots.max(1) * num_q_heads as usize;
        let stream = device.stream();
        let turns = if rotary_dim == 0 { &[0][..] } else { params.rope.turns() };
        let failed = || device_error("allocating partials");
        Ok(CudaAttention {
            turns: stream.clone_htod(turns).map_err(failed())?,
            partial_out: stream.alloc_zeros(heads * layout.head_dim as usize).map_err(failed())?,
            partial_lse: stream.alloc_zeros(heads).map_err(failed())?,
            device: Arc::clone(device),
            params,
            window,
            keys: StoredKeys::Rotated,
        })
    }

    /// The same over keys that are stored as they are, and rotated to their absolute positions each time they are read: the
    /// path of other engines, for comparison. It takes plans whose items have 16 rows (token, query head of a group) at most.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] if not all of `head_dim` rotates.
    pub fn rotating_keys(mut self, store: &CudaKvStore) -> Result<CudaAttention, AttnError> {
        self.store_keys(store, StoredKeys::Raw)?;
        Ok(self)
    }

    /// From now on keys are stored, and read, as `keys` says.
    ///
    /// # Errors
    /// As for [`CudaAttention::rotating_keys`] if they are stored raw.
    pub fn store_keys(&mut self, store: &CudaKvStore, keys: StoredKeys) -> Result<(), AttnError> {
        let rotary_dim = self.params.rope.rotary_dim();
        if keys == StoredKeys::Raw && rotary_dim != store.layout().head_dim as usize {
            let rule = "rotating keys as they are read takes head_dim only";
            return Err(AttnError::Unsupported { what: "rotary_dim", value: rotary_dim as u64, rule });
        }
        self.keys = keys;
        Ok(())
    }

    fn check(&self, store: &CudaKvStore, layer: u32, plan: &DevicePlan) -> Result<(), AttnError> {
        let layout = store.layout();
        if layer >= layout.num_layers {
            let rule = "the store has fewer layers";
            return Err(AttnError::Unsupported { what: "layer", value: u64::from(layer), rule });
        }
        if plan.num_blocks_min() > layout.num_blocks {
            let value = u64::from(plan.num_blocks_min());
            let rule = "the store has fewer blocks";
            return Err(AttnError::Unsupported { what: "highest block id + 1", value, rule });
        }
        let slots = self.partial_lse.len() / self.params.num_q_heads as usize;
        if plan.num_slots() as usize > slots {
            let rule = "there is room for fewer partials";
            let value = u64::from(plan.num_slots());
            return Err(AttnError::Unsupported { what: "partial slots of a plan", value, rule });
        }
        Ok(())
    }

    fn rope(&self) -> LaRope {
        LaRope {
            turns: DeviceAddress(self.turns.device_ptr(self.device.stream()).0),
            rotary_dim: self.params.rope.rotary_dim() as u32,
            scale_log2: self.params.softmax_scale * std::f32::consts::LOG2_E,
        }
    }

    fn partials(&self) -> LaPartials {
        let stream = self.device.stream();
        LaPartials {
            out: DeviceAddress(self.partial_out.device_ptr(stream).0),
            lse: DeviceAddress(self.partial_lse.device_ptr(stream).0),
        }
    }

    /// Writes the keys and values of every token of the step to the slots the plan gives them.
    ///
    /// `k`, `v`: `[num_tokens, num_kv_heads * head_dim]`, `k` **not** rotated.
    ///
    /// # Errors
    /// [`AttnError::Mismatch`] or [`AttnError::Unsupported`] if a size disagrees, [`AttnError::Device`] if the launch
    /// fails.
    pub fn append(
        &self,
        store: &mut CudaKvStore,
        layer: u32,
        plan: &DevicePlan,
        k: &impl DevicePtr<u16>,
        v: &impl DevicePtr<u16>,
    ) -> Result<(), AttnError> {
        let layout = store.layout();
        let width = (layout.num_kv_heads * layout.head_dim) as usize;
        let elements = plan.num_tokens() as usize * width;
        AttnError::check_size("length of k", k.len(), elements)?;
        AttnError::check_size("length of v", v.len(), elements)?;
        let stream = self.device.stream();
        let (k, _k_read) = k.device_ptr(stream);
        let (v, _v_read) = v.device_ptr(stream);
        let rows = |address| Rows { address: DeviceAddress(address), stride: width };
        self.launch_append(store, layer, plan, [rows(k), rows(v)])
    }

    /// The same from packed rows.
    ///
    /// `qkv`: `[num_tokens, (num_q_heads + 2 * num_kv_heads) * head_dim]`: queries, keys, values, none of them rotated.
    ///
    /// # Errors
    /// As for [`CudaAttention::append`].
    pub fn append_packed(
        &self,
        store: &mut CudaKvStore,
        layer: u32,
        plan: &DevicePlan,
        qkv: &impl DevicePtr<u16>,
    ) -> Result<(), AttnError> {
        let packed = self.packed(store, plan, qkv)?;
        let layout = store.layout();
        let (q_width, kv_width) =
            (self.params.num_q_heads * layout.head_dim, layout.num_kv_heads * layout.head_dim);
        let (k, v) = (packed.at_column(q_width), packed.at_column(q_width + kv_width));
        self.launch_append(store, layer, plan, [k, v])
    }

    /// Rows of queries, keys and values, checked to be as many as the plan has tokens.
    fn packed(
        &self,
        store: &CudaKvStore,
        plan: &DevicePlan,
        qkv: &impl DevicePtr<u16>,
    ) -> Result<Rows, AttnError> {
        let layout = store.layout();
        let stride = ((self.params.num_q_heads + 2 * layout.num_kv_heads) * layout.head_dim) as usize;
        AttnError::check_size("length of qkv", qkv.len(), plan.num_tokens() as usize * stride)?;
        Ok(Rows { address: DeviceAddress(qkv.device_ptr(self.device.stream()).0), stride })
    }

    /// `k`, `v`: rows of memory that the caller borrows, one for each token of the plan.
    fn launch_append(
        &self,
        store: &mut CudaKvStore,
        layer: u32,
        plan: &DevicePlan,
        [k, v]: [Rows; 2],
    ) -> Result<(), AttnError> {
        self.check(store, layer, plan)?;
        let (writes, num_writes, max_writes) = plan.writes(&self.device);
        let rope = match self.keys {
            StoredKeys::Rotated => self.rope(),
            StoredKeys::Raw => LaRope { rotary_dim: 0, ..self.rope() },
        };
        let params = LaAppend {
            kv: store.layer(&self.device, layer),
            rope,
            writes,
            num_writes,
            k: k.address,
            v: v.address,
            k_stride: k.stride as i64,
            v_stride: v.stride as i64,
        };
        let stream = self.device.stream();
        // SAFETY: the arrays were checked to be as long as the step, which bounds the tokens of the writes; the planner
        // bounds their blocks by `num_blocks_min`, checked above, and their slots by the block size. All of them live in
        // this context, and the callers' borrows outlive the launch in stream order.
        unsafe { self.device.kernels.rope_append(stream, store.shape(), &params, max_writes) }
            .map_err(kernel_error("storing keys and values"))
    }

    /// Attends every query token of the step to its context.
    ///
    /// `q`, `out`: `[num_tokens, num_q_heads * head_dim]`, `q` **not** rotated.
    ///
    /// # Errors
    /// As for [`CudaAttention::append`].
    pub fn attend(
        &mut self,
        store: &CudaKvStore,
        layer: u32,
        plan: &DevicePlan,
        q: &impl DevicePtr<u16>,
        out: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        let width = (self.params.num_q_heads * store.layout().head_dim) as usize;
        AttnError::check_size("length of q", q.len(), plan.num_tokens() as usize * width)?;
        let (q, _q_read) = q.device_ptr(self.device.stream());
        self.launch_attend(store, layer, plan, Rows { address: DeviceAddress(q), stride: width }, out)
    }

    /// The same with the queries of packed rows: `qkv` as for [`CudaAttention::append_packed`].
    ///
    /// # Errors
    /// As for [`CudaAttention::append`].
    pub fn attend_packed(
        &mut self,
        store: &CudaKvStore,
        layer: u32,
        plan: &DevicePlan,
        qkv: &impl DevicePtr<u16>,
        out: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        let q = self.packed(store, plan, qkv)?;
        self.launch_attend(store, layer, plan, q, out)
    }

    /// `q`: rows of memory that the caller borrows, one for each token of the plan.
    fn launch_attend(
        &self,
        store: &CudaKvStore,
        layer: u32,
        plan: &DevicePlan,
        q: Rows,
        out: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        self.check(store, layer, plan)?;
        let width = (self.params.num_q_heads * store.layout().head_dim) as usize;
        AttnError::check_size("length of out", out.len(), plan.num_tokens() as usize * width)?;
        let stream = self.device.stream();
        let (out, _out_written) = out.device_ptr_mut(stream);
        let (q_stride, out) = (q.stride as u32, DeviceAddress(out));
        let params = LaAttend { q: q.address, q_stride, out, ..self.attend_params(store, layer, plan) };
        self.launch_items(store, plan, &params)?;
        let merge = LaMerge {
            plan: params.plan,
            partials: params.partials,
            out: params.out,
            num_q_heads: self.params.num_q_heads,
            reserved: 0,
        };
        // SAFETY: as for the items; merge lists have an entry per token and name slots below `num_slots`.
        unsafe { self.device.kernels.merge(stream, store.shape(), &merge, plan.max_merges()) }
            .map_err(kernel_error("merging"))
    }

    /// What attend is launched with, without queries and output.
    fn attend_params(&self, store: &CudaKvStore, layer: u32, plan: &DevicePlan) -> LaAttend {
        LaAttend {
            plan: plan.plan(&self.device),
            kv: store.layer(&self.device, layer),
            rope: self.rope(),
            partials: self.partials(),
            num_q_heads: self.params.num_q_heads,
            window: self.window,
            ..LaAttend::default()
        }
    }

    /// Reads the keys and values of the plan's items of up to 16 rows as [`CudaAttention::attend`] does, and computes nothing:
    /// how fast attention over this plan could be on this device, if it were for memory alone.
    ///
    /// # Errors
    /// As for [`CudaAttention::append`].
    pub fn probe_reads(&self, store: &CudaKvStore, layer: u32, plan: &DevicePlan) -> Result<(), AttnError> {
        self.check(store, layer, plan)?;
        let (work, num_workers) = plan.work(&self.device, 0);
        let params = LaAttend { work, ..self.attend_params(store, layer, plan) };
        let kernel = (Comparison::ReadProbe, store.shape());
        let stream = self.device.stream();
        // SAFETY: as for the items of `attend`; nothing is written.
        unsafe { self.device.kernels.compare(stream, kernel, &params, num_workers) }
            .map_err(kernel_error("reading"))
    }

    fn launch_items(
        &self,
        store: &CudaKvStore,
        plan: &DevicePlan,
        params: &LaAttend,
    ) -> Result<(), AttnError> {
        let (kernels, stream) = (&self.device.kernels, self.device.stream());
        let mut start = Start::AfterAll;
        // Wide workers need a whole multiprocessor, narrow ones find room between them.
        for (index, class) in TileClass::ALL.into_iter().enumerate().rev() {
            let (work, num_workers) = plan.work(&self.device, index);
            if num_workers == 0 {
                continue;
            }
            let params = LaAttend { work, ..*params };
            if self.keys == StoredKeys::Raw && class != TileClass::N16 {
                let (value, rule) = (u64::from(class.max_rows()), "rotating keys as they are read takes 16");
                return Err(AttnError::Unsupported { what: "rows of an item", value, rule });
            }
            let launched = match self.keys {
                // SAFETY: the arrays were checked to be as long as the step, which bounds the tokens of the rows; the planner
                // bounds blocks by `num_blocks_min` and slots by `num_slots`, checked by the caller; the schedule keeps parts,
                // rows and items inside their arrays. All of them live in this context, and the borrows outlive the launch
                // in stream order.
                StoredKeys::Rotated => unsafe {
                    kernels.attend(stream, (class, store.shape()), &params, num_workers, start)
                },
                // SAFETY: as above.
                StoredKeys::Raw => unsafe {
                    let kernel = (Comparison::RotatingKeys, store.shape());
                    kernels.compare(stream, kernel, &params, num_workers)
                },
            };
            launched.map_err(kernel_error("attending"))?;
            // The classes read the same and write different slots, so the next one need not wait.
            start = Start::Early;
        }
        Ok(())
    }
}

/// Where rows of a matrix begin, and how many elements lie from one to the next.
#[derive(Debug, Clone, Copy)]
struct Rows {
    address: DeviceAddress,
    stride: usize,
}

impl Rows {
    /// The same rows from column `column` on.
    fn at_column(self, column: u32) -> Rows {
        Rows { address: DeviceAddress(self.address.0 + 2 * u64::from(column)), ..self }
    }
}

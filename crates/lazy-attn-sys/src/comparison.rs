//! Kernels that run in place of attend, for comparison.

use crate::abi::KvDtype;
use crate::kernels::KernelShape;

/// What runs over items of [`TileClass::N16`](crate::TileClass::N16) in place of attend, for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Comparison {
    /// Attention over keys that are stored as they are, and rotated as they are read.
    RotatingKeys,
    /// Reads the same blocks through the same ring and computes nothing.
    ReadProbe,
}

impl Comparison {
    const ALL: [Comparison; 2] = [Comparison::RotatingKeys, Comparison::ReadProbe];

    /// Those that serve `shape`, each with the shape of its kernel.
    pub(crate) fn serving(shape: KernelShape) -> impl Iterator<Item = (Comparison, KernelShape)> {
        Comparison::ALL.into_iter().filter_map(move |comparison| Some((comparison, comparison.shape(shape)?)))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Comparison::RotatingKeys => "attend_rotate_keys",
            Comparison::ReadProbe => "read_probe",
        }
    }

    /// The shape of the kernel that serves `shape`, if there is one.
    fn shape(self, shape: KernelShape) -> Option<KernelShape> {
        match self {
            Comparison::RotatingKeys => (shape.dtype != KvDtype::Fp8E4m3).then_some(shape),
            // Reading does not care which type of 16 bits it is.
            Comparison::ReadProbe if shape.dtype == KvDtype::F16 => {
                Some(KernelShape { dtype: KvDtype::Bf16, ..shape })
            }
            Comparison::ReadProbe => Some(shape),
        }
    }

    /// Stages that the kernel leaves to something else: rotating keys keeps angles in the place of one.
    pub(crate) fn stages_less(self) -> u32 {
        u32::from(self == Comparison::RotatingKeys)
    }
}

//! The numeric kernels: plain slices in, plain slices out, nothing of models or layers.
//!
//! Weights come as `&[u8]`: little-endian float32 as they lie in a model file, at any alignment. Lengths are in weights
//! unless the name says bytes. [`pack`] states the bit order; each other file opens with its numeric contract.
//!
//! Hot loops are plain Rust that the compiler vectorizes, compiled for several instruction sets by `multiversion` and
//! dispatched once per block of weights. Rust never fuses a multiplication and an addition by itself, so every
//! instruction set gives the same bits.
//!
//! Tensors of more than [`BLOCK`] weights are cut into blocks that run on rayon's current pool. The cut depends on the
//! tensor's layout alone, so the thread count changes no result.

pub(crate) mod boxes;
pub(crate) mod dequantize;
pub(crate) mod encode;
pub(crate) mod errors;
pub(crate) mod float16;
pub(crate) mod int8;
pub(crate) mod kmeans;
pub(crate) mod least_squares;
pub(crate) mod linear;
pub(crate) mod pack;
pub(crate) mod pack_lsb;
pub(crate) mod prune;
pub(crate) mod shift_scale;
#[cfg(test)]
mod testing;

use crate::error::QuantizeError;

/// Weights in a block: the unit of parallel work, small enough (256 KiB of float32) for a core's own cache.
/// A multiple of 8, so that the codes of a block fill whole bytes.
const BLOCK: usize = 1 << 16;

/// Weights handled at a time inside a block, in buffers that stay in the first-level cache. A multiple of 8.
const CHUNK: usize = 1 << 12;

/// How the groups of values that share parameters (a range, a scale, a bias) lie in a row-major tensor: `slabs` x
/// `outer` x `count` x `inner`. A slab has `count` groups of its own, whose runs of `inner` values repeat `outer` times.
///
/// With channels along the first axis, `outer` and `slabs` are 1; along a later one, `outer` is the product of the axes
/// before. A deconvolution in groups has a slab for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// How often a set of groups is followed by others.
    pub(crate) slabs: usize,
    /// How often the runs of a slab's groups repeat.
    pub(crate) outer: usize,
    /// Number of groups in a slab.
    pub(crate) count: usize,
    /// Values of a group that lie side by side.
    pub(crate) inner: usize,
}

impl Layout {
    /// One group: `len` weights share their range.
    pub(crate) fn per_tensor(len: usize) -> Self {
        Self { slabs: 1, outer: 1, count: 1, inner: len }
    }

    /// Number of weights.
    pub(crate) fn len(self) -> usize {
        self.slabs * self.outer * self.count * self.inner
    }

    /// Number of groups.
    pub(crate) fn groups(self) -> usize {
        self.slabs * self.count
    }

    /// The group of a run of `inner` values.
    pub(crate) fn group_of_run(self, run: usize) -> usize {
        let (in_slab, count) = ((self.outer * self.count).max(1), self.count.max(1));
        run / in_slab * self.count + run % in_slab % count
    }

    /// Whether each group lies in one piece, one after the other.
    fn is_contiguous(self) -> bool {
        self.outer == 1
    }
}

/// A weight that is NaN or infinite: no range holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NonFinite {
    /// Index of the first such weight.
    pub(crate) index: usize,
    /// Its value.
    pub(crate) value: f32,
}

impl NonFinite {
    /// The first weight that is not finite.
    fn first(values: &[[u8; 4]]) -> Option<Self> {
        let mut weights = values.iter().map(|&bytes| f32::from_le_bytes(bytes));
        let index = weights.position(|value| !value.is_finite())?;
        Some(Self { index, value: f32::from_le_bytes(*values.get(index)?) })
    }
}

impl From<NonFinite> for QuantizeError {
    fn from(NonFinite { index, value }: NonFinite) -> Self {
        Self::NonFinite { index, value }
    }
}

impl From<linear::Error> for QuantizeError {
    fn from(error: linear::Error) -> Self {
        match error {
            linear::Error::NonFinite(error) => error.into(),
            linear::Error::Overflow { channel } => Self::ScaleRange { channel },
        }
    }
}

impl From<float16::OutOfRange> for QuantizeError {
    fn from(float16::OutOfRange { index, value }: float16::OutOfRange) -> Self {
        if value.is_finite() { Self::Float16Range { index, value } } else { Self::NonFinite { index, value } }
    }
}

/// The float32 values in `values`; trailing bytes that do not fill one are left out.
fn words(values: &[u8]) -> &[[u8; 4]] {
    debug_assert_eq!(values.len() % 4, 0, "float32 values are 4 bytes each");
    values.as_chunks().0
}

/// As [`words`], to write.
fn words_mut(values: &mut [u8]) -> &mut [[u8; 4]] {
    debug_assert_eq!(values.len() % 4, 0, "float32 values are 4 bytes each");
    values.as_chunks_mut().0
}

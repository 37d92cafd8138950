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
pub(crate) mod least_squares;
pub(crate) mod linear;
pub(crate) mod pack;
pub(crate) mod pack_lsb;
pub(crate) mod prune;
pub(crate) mod shift_scale;
#[cfg(test)]
mod testing;

/// Weights in a block: the unit of parallel work, small enough (256 KiB of float32) for a core's own cache.
/// A multiple of 8, so that the codes of a block fill whole bytes.
const BLOCK: usize = 1 << 16;

/// Weights handled at a time inside a block, in buffers that stay in the first-level cache. A multiple of 8.
const CHUNK: usize = 1 << 12;

/// Where the channel axis of a row-major tensor lies: `outer` x `count` x `inner`, the channel axis in the middle.
///
/// `outer` is 1 when channels are the first axis, `count` is 1 for one range over the whole tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    /// Product of the axes before the channel axis.
    pub(crate) outer: usize,
    /// Number of channels.
    pub(crate) count: usize,
    /// Product of the axes after the channel axis.
    pub(crate) inner: usize,
}

impl Channels {
    /// One channel: `len` weights share their range.
    pub(crate) fn per_tensor(len: usize) -> Self {
        Self { outer: 1, count: 1, inner: len }
    }

    /// Number of weights.
    pub(crate) fn len(self) -> usize {
        self.outer * self.count * self.inner
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

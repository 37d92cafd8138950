//! The heavy kernels: plain row-major slices in, plain slices out, nothing of layers.
//!
//! Matrix multiplication is the `faer` crate's, single-threaded; everything around it is ours. Work is cut into pieces
//! that run on rayon's current pool, and the cut depends on sizes alone, so the thread count changes no result.
//! Sums are in float32, in an order that depends on sizes and on the instruction set only. Callers check sizes: a slice
//! that does not fit its geometry is a programming error.

mod axis;
mod convolution;
mod deconvolution;
mod depthwise;
mod gemm;
mod pool;
#[cfg(test)]
mod tests;

pub(crate) use axis::Axis;
pub(crate) use convolution::convolution;
pub(crate) use deconvolution::deconvolution;
pub(crate) use gemm::{Matrix, gemm, linear};
pub(crate) use pool::{Pooling, pool};

use rayon::prelude::*;

/// Multiplications below which work stays on the thread that asks for it: waking another costs as much.
const WORTH_A_THREAD: usize = 1 << 17;

/// Values of a buffer that should stay in a core's own cache.
const BUFFER: usize = 1 << 18;

/// The sizes of a convolution of one sample, or of its transpose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Number of groups; divides both.
    pub groups: usize,
    /// Depth, height, width.
    pub axes: [Axis; 3],
}

impl Geometry {
    fn group_inputs(&self) -> usize {
        self.inputs / self.groups
    }

    fn group_outputs(&self) -> usize {
        self.outputs / self.groups
    }

    /// Positions of the kernel.
    fn taps(&self) -> usize {
        self.axes.iter().map(|axis| axis.kernel).product()
    }

    /// Values of one channel of the input.
    pub(crate) fn input_len(&self) -> usize {
        self.axes.iter().map(|axis| axis.input).product()
    }

    /// Values of one channel of the output.
    pub(crate) fn output_len(&self) -> usize {
        self.axes.iter().map(|axis| axis.output).product()
    }
}

/// Runs `run` for each item, in parallel if all of them together take at least so many multiplications that it is worth
/// it. Items must not depend on each other.
pub(crate) fn for_each<T: Send>(items: Vec<T>, multiplications: usize, run: impl Fn(T) + Send + Sync) {
    if items.len() > 1 && multiplications >= WORTH_A_THREAD {
        items.into_par_iter().for_each(run);
    } else {
        items.into_iter().for_each(run);
    }
}

//! How the windows of a convolution or pooling lie along one axis.

use std::ops::Range;

/// One axis of a sliding window: output `x` at tap `t` reads input `x * stride + t * dilation - before`, where that
/// exists. All numbers are below 2^40, so that nothing here overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Length of the input.
    pub input: usize,
    /// Length of the output.
    pub output: usize,
    /// Taps of the window.
    pub kernel: usize,
    /// Steps of the input between neighbouring outputs, at least 1.
    pub stride: usize,
    /// Steps of the input between neighbouring taps, at least 1.
    pub dilation: usize,
    /// Padding in front of the input.
    pub before: usize,
}

impl Axis {
    /// An axis that is left alone.
    pub(crate) const fn whole(len: usize) -> Self {
        Self { input: len, output: len, kernel: 1, stride: 1, dilation: 1, before: 0 }
    }

    /// The outputs whose input at a tap exists.
    pub(crate) fn outputs_inside(&self, tap: usize) -> Range<usize> {
        let offset = tap * self.dilation;
        let start = self.before.saturating_sub(offset).div_ceil(self.stride).min(self.output);
        let end = (self.input + self.before).saturating_sub(offset).div_ceil(self.stride).min(self.output);
        start..end.max(start)
    }

    /// The input of an output at a tap, if it exists.
    pub(crate) fn input_at(&self, output: usize, tap: usize) -> Option<usize> {
        (output * self.stride + tap * self.dilation).checked_sub(self.before).filter(|&at| at < self.input)
    }

    /// The inputs of a window without dilation that exist.
    pub(crate) fn window(&self, output: usize) -> Range<usize> {
        let start = output * self.stride;
        let end = (start + self.kernel).saturating_sub(self.before).min(self.input);
        start.saturating_sub(self.before).min(end)..end
    }

    /// Whether the axis is only passed on.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.before == 0 && self.input == self.output
    }
}

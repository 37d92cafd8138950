//! What a quantizer may know of the inputs that a weight meets.

use std::fmt;

/// What a [`Quantizer`](super::Quantizer) wants to know of the inputs that a weight meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Needs {
    /// Nothing: it goes by the values alone.
    #[default]
    Nothing,
    /// Calibration may choose codes and parameters in the quantizer's form itself, by what they do to the outputs.
    Levels(Levels),
    /// The quantizer chooses, and is told what its errors do.
    Statistics,
}

/// Which values codes stand for, where calibration chooses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Levels {
    /// Evenly spaced ones, a scale and a bias for each channel.
    Even,
    /// Evenly spaced ones around zero, which has the code 2^(bits - 1); a scale for each channel.
    EvenAroundZero,
    /// Any, in one table.
    Table,
}

/// What the errors of a weight do to the outputs of its layer on samples. Slices have a value for each value of the
/// weight, in the weight's own order.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Statistics<'a> {
    /// How much a squared error of each value counts, if the others had none: the second moment of what it is multiplied
    /// with, and a hundredth of the mean of all of those.
    pub importance: &'a [f32],
    /// What the values should be near: the weight's own, changed to undo what earlier quantized layers do to the inputs.
    pub target: &'a [f32],
    /// At how many positions inputs were looked at.
    pub positions: usize,
    pub(crate) error: &'a (dyn Fn(&[f32]) -> f64 + Sync),
}

impl Statistics<'_> {
    /// The squared error of the outputs with other values, the mean over positions, summed over outputs; infinite unless
    /// there is a value for each of the weight's.
    pub fn error(&self, values: &[f32]) -> f64 {
        if values.len() == self.target.len() { (self.error)(values) } else { f64::INFINITY }
    }
}

impl fmt::Debug for Statistics<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statistics")
            .field("values", &self.target.len())
            .field("positions", &self.positions)
            .finish_non_exhaustive()
    }
}

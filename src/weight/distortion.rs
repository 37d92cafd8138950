//! How far stored weights are from the original ones.
//!
//! One figure serves reports and plans alike. For a weight of N values `w`, stored as `w'`, the relative squared error is
//! `|w - w'|^2 / |w|^2`; in decibels, `-10 log10` of it, it is the signal-to-quantization-noise ratio (SQNR). Several
//! weights together cost the sum of `N x |w - w'|^2 / |w|^2`, and their SQNR is `-10 log10(cost / sum of N)`: each
//! counts by its size, whatever its scale. `w'` is what Core ML decodes, from float32 scales, biases and tables.

use crate::format::form::StoredForm;
use crate::kernels::dequantize::Stored;
use crate::kernels::errors::{self, ErrorSums};
use crate::kernels::float16;

use super::{Payload, WeightView};

/// How much storing changed the values of a weight. Undefined, NaN, where values are not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Distortion {
    relative: f64,
    max_error: f64,
    underflows: u64,
}

impl Distortion {
    /// No change at all.
    pub const NONE: Self = Self { relative: 0.0, max_error: 0.0, underflows: 0 };

    pub(crate) fn of(sums: ErrorSums) -> Self {
        Self {
            relative: relative(sums.squared_error, sums.squared),
            max_error: sums.max_error,
            underflows: sums.underflows,
        }
    }

    /// The relative squared error, `|w - w'|^2 / |w|^2`; 0 if nothing changed, infinite if zeros did.
    pub fn relative_error(&self) -> f64 {
        self.relative
    }

    /// The signal-to-quantization-noise ratio in decibels, infinite if nothing changed.
    pub fn sqnr_db(&self) -> f64 {
        decibels(self.relative)
    }

    /// Whether the figures say anything: not if values are NaN or infinite.
    pub fn is_defined(&self) -> bool {
        !self.relative.is_nan()
    }

    /// The largest `|w - w'|`; of the finite ones, if [`is_defined`](Self::is_defined) is false.
    pub fn max_error(&self) -> f64 {
        self.max_error
    }

    /// How many values are too small for float16: they became zero, or less than half of the 11 bits that a half has are
    /// left of them (magnitudes below 2^-19 = 1.9e-6). Values that a half holds exactly do not count; 0 in other forms.
    pub fn underflows(&self) -> u64 {
        self.underflows
    }
}

/// `squared_error / squared`, also where the weight is all zeros.
pub(crate) fn relative(squared_error: f64, squared: f64) -> f64 {
    if squared_error == 0.0 { 0.0 } else { squared_error / squared }
}

/// A relative squared error as a ratio of signal to noise, in decibels.
pub(crate) fn decibels(relative: f64) -> f64 {
    if relative == 0.0 { f64::INFINITY } else { -10.0 * relative.log10() }
}

/// How far a form of a weight is from the weight.
pub(crate) fn distortion(weight: &WeightView<'_>, stored: &Payload) -> Distortion {
    let (payload, stored) = stored.stored(weight.blocks().layout());
    Distortion::of(errors::sums(weight.as_le_bytes(), payload, stored))
}

/// How far float32 values are from others, both little-endian, which were stored in a form.
pub(crate) fn between(original: &[u8], other: &[u8], form: StoredForm) -> Distortion {
    let mut sums = errors::sums(original, other, Stored::Float32);
    if form == StoredForm::Float16 {
        sums.underflows = float16::underflows(original.as_chunks().0, other.as_chunks().0);
    }
    Distortion::of(sums)
}

/// The sum of squares of little-endian float32 values.
pub(crate) fn squared(values: &[u8]) -> f64 {
    errors::sums(values, values, Stored::Float32).squared
}

//! linear and linear_symmetric: codes for evenly spaced values, with a scale and a bias for each channel.
//!
//! The arithmetic, its rounding and its differences from coremltools are those of [`crate::kernels::linear`].

use super::{Buffers, Codes, QuantizedWeight, Quantizer, WeightView};
use crate::error::QuantizeError;
use crate::kernels::linear::{self, Scheme};
use crate::stored::{Nbits, StoredForm};

/// Stores values as codes between the smallest and the largest value of their channel.
///
/// With n bits, `scale = (max - min) / (2^n - 1)`, `bias = min` and `code = round((value - bias) / scale)`, half to
/// even, in float64 as coremltools computes it; scale and bias are stored in float32. A weight with a channel axis has
/// one scale and bias for each channel, others have one. The error of a value is at most half a scale.
///
/// # Errors
///
/// A value that is NaN or infinite, or a channel whose range does not fit float32.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    nbits: Nbits,
}

impl Linear {
    /// Codes of `nbits` bits.
    pub fn new(nbits: Nbits) -> Self {
        Self { nbits }
    }
}

impl Quantizer for Linear {
    fn stored_form(&self, shape: &[usize], channel_axis: Option<usize>) -> StoredForm {
        form(self.nbits, shape, channel_axis)
    }

    fn quantize(&self, weight: WeightView<'_>, buffers: &mut Buffers) -> Result<QuantizedWeight, QuantizeError> {
        quantize(weight, self.nbits, Scheme::Linear, buffers)
    }
}

/// Stores values as codes in a range around zero that holds the channel's largest magnitude.
///
/// With n bits and `r = max |value|`, `scale = r / (2^(n-1) - 1)`, `bias = -2^(n-1) scale` and
/// `code = round((value - bias) / scale)`, half to even, in float64 as coremltools computes it for 8 bits. Zero is stored
/// exactly, but for the rounding of the bias to float32.
///
/// # Errors
///
/// A value that is NaN or infinite, or a channel whose range does not fit float32.
#[derive(Clone, Copy, Debug)]
pub struct LinearSymmetric {
    nbits: Nbits,
}

impl LinearSymmetric {
    /// Codes of `nbits` bits; with one bit there is no range around zero, and two bits are used.
    pub fn new(nbits: Nbits) -> Self {
        Self { nbits: nbits.max(Nbits::TWO) }
    }
}

impl Quantizer for LinearSymmetric {
    fn stored_form(&self, shape: &[usize], channel_axis: Option<usize>) -> StoredForm {
        form(self.nbits, shape, channel_axis)
    }

    fn quantize(&self, weight: WeightView<'_>, buffers: &mut Buffers) -> Result<QuantizedWeight, QuantizeError> {
        quantize(weight, self.nbits, Scheme::Symmetric, buffers)
    }
}

fn form(nbits: Nbits, shape: &[usize], channel_axis: Option<usize>) -> StoredForm {
    let channels = channel_axis.and_then(|axis| shape.get(axis)).copied().unwrap_or(1);
    StoredForm::Linear { nbits, scales: channels, biases: channels }
}

fn quantize(
    weight: WeightView<'_>,
    nbits: Nbits,
    scheme: Scheme,
    buffers: &mut Buffers,
) -> Result<QuantizedWeight, QuantizeError> {
    let channels = weight.channels();
    let mut packed = buffers.take(nbits.packed_len(weight.len()));
    let (mut scale, mut bias) = (vec![0.0; channels.count], vec![0.0; channels.count]);
    linear::quantize(weight.as_le_bytes(), channels, nbits.get(), scheme, &mut packed, &mut scale, &mut bias)?;
    let codes = Codes::from_packed(packed, weight.len(), nbits);
    weight.recycle(buffers);
    Ok(QuantizedWeight::Linear { codes, scale, bias })
}

//! linear_lut: a lookup table of evenly spaced values.
//!
//! The arithmetic is that of [`crate::kernels::linear`], over the whole weight.

use super::{Buffers, Codes, QuantizedWeight, Quantizer, WeightView};
use crate::error::QuantizeError;
use crate::format::form::{Nbits, StoredForm};
use crate::kernels::errors::ErrorSums;
use crate::kernels::linear;
use crate::weight::distortion::Distortion;

/// Stores values as codes into a table of evenly spaced values between the smallest and the largest of the weight.
///
/// The codes are those of [`Linear`](super::Linear) without channels, and `table[i] = i * scale + bias`, rounded to
/// float32, as coremltools computes it.
///
/// # Errors
///
/// A value that is NaN or infinite.
#[derive(Clone, Copy, Debug)]
pub struct LinearLut {
    nbits: Nbits,
}

impl LinearLut {
    /// Codes of `nbits` bits.
    pub fn new(nbits: Nbits) -> Self {
        Self { nbits }
    }

    fn store(
        &self,
        weight: WeightView<'_>,
        buffers: &mut Buffers,
        measure: bool,
    ) -> Result<(QuantizedWeight, ErrorSums), QuantizeError> {
        let mut packed = buffers.take(self.nbits.packed_len(weight.len()));
        let mut table = vec![0.0; self.nbits.levels()];
        let sums = linear::quantize_table(weight.as_le_bytes(), self.nbits.get(), &mut packed, &mut table, measure)?;
        let codes = Codes::from_packed(packed, weight.len(), self.nbits);
        weight.recycle(buffers);
        Ok((QuantizedWeight::LookupTable { codes, table }, sums))
    }
}

impl Quantizer for LinearLut {
    fn stored_form(&self, _: &[usize], _: Option<usize>) -> StoredForm {
        StoredForm::LookupTable { nbits: self.nbits }
    }

    fn quantize(&self, weight: WeightView<'_>, buffers: &mut Buffers) -> Result<QuantizedWeight, QuantizeError> {
        Ok(self.store(weight, buffers, false)?.0)
    }

    fn quantize_and_measure(
        &self,
        weight: WeightView<'_>,
        buffers: &mut Buffers,
    ) -> Result<(QuantizedWeight, Option<Distortion>), QuantizeError> {
        let (quantized, sums) = self.store(weight, buffers, true)?;
        Ok((quantized, Some(Distortion::of(sums))))
    }
}

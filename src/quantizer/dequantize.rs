//! dequantize: every stored form back to float32.
//!
//! The values come decoded: `code * scale + bias` in float64, rounded once to float32; table entries and halves
//! exactly.

use super::{Buffers, QuantizedWeight, Quantizer, WeightView};
use crate::error::QuantizeError;
use crate::format::form::StoredForm;
use crate::weight::distortion::Distortion;

/// Stores values as float32, four bytes each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dequantize;

impl Quantizer for Dequantize {
    fn stored_form(&self, _: &[usize], _: Option<usize>) -> StoredForm {
        StoredForm::Float32
    }

    fn quantize(&self, weight: WeightView<'_>, buffers: &mut Buffers) -> Result<QuantizedWeight, QuantizeError> {
        Ok(QuantizedWeight::Float32(weight.into_le_bytes(buffers)))
    }

    fn quantize_and_measure(
        &self,
        weight: WeightView<'_>,
        buffers: &mut Buffers,
    ) -> Result<(QuantizedWeight, Option<Distortion>), QuantizeError> {
        // The values stay as they are.
        Ok((self.quantize(weight, buffers)?, Some(Distortion::NONE)))
    }
}

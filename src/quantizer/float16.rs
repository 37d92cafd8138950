//! float16: every value rounded to the nearest IEEE half, ties to even.
//!
//! Identical to numpy's and coremltools' conversion. A value that is not finite, or beyond the largest half (65504),
//! is refused. coremltools also refuses 65504 itself, which a half holds exactly.

use super::{Buffers, QuantizedWeight, Quantizer, WeightView};
use crate::error::QuantizeError;
use crate::format::form::StoredForm;
use crate::kernels;
use crate::kernels::errors::ErrorSums;
use crate::weight::distortion::Distortion;

/// Stores values as IEEE half precision, two bytes each.
///
/// A value keeps 11 significant bits (a relative error of at most 2^-11) if its magnitude is at least 2^-14 = 6.1e-5,
/// and an absolute error of at most 2^-25 = 3e-8 below.
#[derive(Clone, Copy, Debug, Default)]
pub struct Float16;

impl Quantizer for Float16 {
    fn stored_form(&self, _: &[usize], _: Option<usize>) -> StoredForm {
        StoredForm::Float16
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

impl Float16 {
    fn store(
        &self,
        weight: WeightView<'_>,
        buffers: &mut Buffers,
        measure: bool,
    ) -> Result<(QuantizedWeight, ErrorSums), QuantizeError> {
        let mut halves = buffers.take(weight.len() * 2);
        let sums = kernels::float16::to_float16(weight.as_le_bytes(), &mut halves, measure)?;
        weight.recycle(buffers);
        Ok((QuantizedWeight::Float16(halves), sums))
    }
}

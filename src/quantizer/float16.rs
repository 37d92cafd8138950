//! float16: every value rounded to the nearest IEEE half, ties to even.
//!
//! Identical to numpy's and coremltools' conversion. A value that is not finite, or beyond the largest half (65504),
//! is refused. coremltools also refuses 65504 itself, which a half holds exactly.

use super::{QuantizeContext, Quantizer};
use crate::error::QuantizeError;
use crate::format::form::StoredForm;
use crate::kernels;
use crate::program::Recipe;
use crate::program::recipe::Kind;
use crate::weight::{Payload, WeightSpec, WeightView};

/// Stores values as IEEE half precision, two bytes each.
///
/// A value keeps 11 significant bits (a relative error of at most 2^-11) if its magnitude is at least 2^-14 = 6.1e-5,
/// and an absolute error of at most 2^-25 = 3e-8 below.
#[derive(Clone, Copy, Debug, Default)]
pub struct Float16;

impl Quantizer for Float16 {
    fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
        StoredForm::Float16
    }

    fn quantize(&self, weight: WeightView<'_>, context: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        let mut halves = context.take(weight.len() * 2);
        let sums = kernels::float16::to_float16(weight.as_le_bytes(), &mut halves, context.measures())?;
        context.record_sums(sums);
        weight.recycle(&mut context.buffers);
        Ok(Payload::Float16(halves))
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe(Kind::Float16))
    }
}

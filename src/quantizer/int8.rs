//! int8: signed 8-bit values for layers that quantize their activations at run time.
//!
//! The arithmetic is that of [`crate::kernels::int8`].

use super::{QuantizeContext, Quantizer};
use crate::error::QuantizeError;
use crate::format::form::StoredForm;
use crate::kernels;
use crate::program::Recipe;
use crate::program::recipe::Kind;
use crate::weight::{Payload, WeightSpec, WeightView};

/// Stores values as signed bytes with one scale, for `int8DynamicQuantize`.
///
/// `scale = max |value| / 127` and `int8 = round(value / scale)`, half to even; coremltools truncates toward zero
/// instead.
///
/// # Errors
///
/// A value that is NaN or infinite.
#[derive(Clone, Copy, Debug, Default)]
pub struct Int8;

impl Quantizer for Int8 {
    fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
        StoredForm::Int8
    }

    fn quantize(&self, weight: WeightView<'_>, context: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        let mut values = context.take(weight.len());
        let scale = kernels::int8::quantize(weight.as_le_bytes(), &mut values)?;
        weight.recycle(&mut context.buffers);
        Ok(Payload::Int8 { values, scale })
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe(Kind::None))
    }
}

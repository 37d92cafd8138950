//! dequantize: every stored form back to float32.
//!
//! The values come decoded: `code * scale + bias` in float64, rounded once to float32; table entries and halves
//! exactly.

use super::{QuantizeContext, Quantizer};
use crate::error::QuantizeError;
use crate::format::form::StoredForm;
use crate::program::Recipe;
use crate::program::recipe::Kind;
use crate::weight::distortion::Distortion;
use crate::weight::{Payload, WeightSpec, WeightView};

/// Stores values as float32, four bytes each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dequantize;

impl Quantizer for Dequantize {
    fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
        StoredForm::Float32
    }

    fn quantize(&self, weight: WeightView<'_>, context: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        if context.measures() {
            context.record(Distortion::NONE);
        }
        Ok(Payload::Float32(weight.into_le_bytes(&mut context.buffers)))
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe(Kind::Dequantize))
    }
}

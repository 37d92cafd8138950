//! linear_lut: a lookup table of evenly spaced values.
//!
//! The arithmetic is that of [`crate::kernels::linear`], over the whole weight.

use super::{QuantizeContext, Quantizer};
use crate::error::QuantizeError;
use crate::format::form::{Nbits, StoredForm};
use crate::kernels::linear;
use crate::program::Recipe;
use crate::program::recipe::{Kind, Table};
use crate::weight::{Codes, Payload, WeightSpec, WeightView};

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
}

impl Quantizer for LinearLut {
    fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
        StoredForm::LookupTable { nbits: self.nbits }
    }

    fn quantize(&self, weight: WeightView<'_>, context: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        let (values, nbits) = (weight.as_le_bytes(), self.nbits);
        let mut packed = context.take(nbits.packed_len(weight.len()));
        let mut table = vec![0.0; nbits.levels()];
        let sums = linear::quantize_table(values, nbits.get(), &mut packed, &mut table, context.measures())?;
        context.record_sums(sums);
        let codes = Codes::from_packed(packed, weight.len(), nbits);
        weight.recycle(&mut context.buffers);
        Ok(Payload::LookupTable { codes, table })
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe(Kind::Table { nbits: self.nbits.get(), table: Table::Uniform }))
    }
}

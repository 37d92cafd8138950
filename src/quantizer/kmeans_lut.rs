//! kmeans_lut: the lookup table with the least squared error.
//!
//! One-dimensional k-means has an exact solution, see [`crate::kmeans`].

use super::{Buffers, Codes, QuantizedWeight, Quantizer, WeightView};
use crate::error::QuantizeError;
use crate::kmeans;
use crate::stored::{Nbits, StoredForm};

/// Stores values as codes into the table with the least sum of squared errors, one table for each weight.
///
/// The table is sorted and has 2^bits entries; if the weight has fewer distinct values, the last one is repeated. Each
/// value gets the nearest entry.
///
/// # Errors
///
/// A value that is NaN or infinite.
#[derive(Clone, Copy, Debug)]
pub struct KmeansLut {
    nbits: Nbits,
}

impl KmeansLut {
    /// Codes of `nbits` bits.
    pub fn new(nbits: Nbits) -> Self {
        Self { nbits }
    }
}

impl Quantizer for KmeansLut {
    fn stored_form(&self, _: &[usize], _: Option<usize>) -> StoredForm {
        StoredForm::LookupTable { nbits: self.nbits }
    }

    fn quantize(&self, weight: WeightView<'_>, buffers: &mut Buffers) -> Result<QuantizedWeight, QuantizeError> {
        if let Some(index) = weight.iter().position(|value| !value.is_finite()) {
            return Err(QuantizeError::NonFinite { index, value: weight.iter().nth(index).unwrap_or_default() });
        }
        let mut table = kmeans::solve(weight.as_le_bytes(), self.nbits.levels());
        let mut packed = buffers.take(self.nbits.packed_len(weight.len()));
        kmeans::assign(weight.as_le_bytes(), &table, self.nbits.get(), &mut packed);
        let last = table.last().copied().unwrap_or_default();
        table.resize(self.nbits.levels(), last);
        let codes = Codes::from_packed(packed, weight.len(), self.nbits);
        weight.recycle(buffers);
        Ok(QuantizedWeight::LookupTable { codes, table })
    }
}

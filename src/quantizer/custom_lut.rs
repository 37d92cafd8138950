//! custom_lut: a lookup table from a function of the caller's.

use std::fmt;

use super::{QuantizeContext, Quantizer};
use crate::error::QuantizeError;
use crate::format::form::{Nbits, StoredForm};
use crate::weight::{Codes, Payload, WeightSpec, WeightView};

/// Gets the number of bits and the values, row-major; returns the table of 2^nbits entries and one code for each value.
type TableFunction = dyn Fn(u32, &[f32]) -> Result<(Vec<f32>, Vec<u8>), QuantizeError> + Send + Sync;

/// Stores values as codes into a table that a function of the caller's makes, one table for each weight.
///
/// What the function returns is checked: 2^nbits finite entries, one code below 2^nbits for each value.
///
/// ```
/// use coreml_quant::weight_params::FloatValues;
/// use coreml_quant::{Blocks, CustomLut, Nbits, QuantizeContext, Quantizer, WeightSpec, WeightView};
///
/// // Powers of two, up to the largest magnitude.
/// let quantizer = CustomLut::new(Nbits::ONE, |_nbits, values: &[f32]| {
///     let codes = values.iter().map(|&value| u8::from(value > 0.0)).collect();
///     Ok((vec![-1.0, 1.0], codes))
/// });
/// let values = FloatValues::from(vec![0.5, -2.0]);
/// let blocks = Blocks::per_tensor(&[2]);
/// let weight = WeightView::new(&values, WeightSpec::new(&blocks)).ok_or("shape")?;
/// quantizer.quantize(weight, &mut QuantizeContext::new())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CustomLut {
    nbits: Nbits,
    function: Box<TableFunction>,
}

impl CustomLut {
    /// Tables of 2^nbits entries, made by `function`. It must give the same result for the same values, and may be
    /// called from several threads at once.
    pub fn new<F>(nbits: Nbits, function: F) -> Self
    where
        F: Fn(u32, &[f32]) -> Result<(Vec<f32>, Vec<u8>), QuantizeError> + Send + Sync + 'static,
    {
        Self { nbits, function: Box::new(function) }
    }
}

impl fmt::Debug for CustomLut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomLut").field("nbits", &self.nbits).finish_non_exhaustive()
    }
}

impl Quantizer for CustomLut {
    fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
        StoredForm::LookupTable { nbits: self.nbits }
    }

    fn quantize(&self, weight: WeightView<'_>, _: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        let values = weight.to_vec();
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(QuantizeError::NonFinite { index, value: values[index] });
        }
        let (table, codes) = (self.function)(self.nbits.into(), &values)?;
        // The length of the table and the number of codes are checked with every quantizer's result.
        Ok(Payload::LookupTable { codes: Codes::pack(&codes, self.nbits)?, table })
    }
}

//! Weights with values that their new form cannot hold: NaN and the infinities, numbers beyond float16, channels whose
//! range is beyond a float32 scale.
//!
//! A quantizer says so itself when it meets such a value. Here it is asked beforehand, where a weight may stay instead,
//! and afterwards, so that an error names all such weights and not only the first. The quantizer runs only on weights
//! whose largest magnitude gives reason to.

use crate::error::{QuantizeError, WeightError};
use crate::format::form::StoredForm;
use crate::kernels::{Layout, encode};
use crate::quantizer::{QuantizeContext, Quantizer};
use crate::weight::{Buffers, WeightView};

use super::report::Reason;

/// No scale or bias of smaller magnitudes leaves float32: they are at most a few times as large.
const ORDINARY: f32 = f32::MAX / 64.0;

/// Why a weight's values cannot be stored in a form; `None` if they can.
pub(super) fn refusal<'w>(
    weight: impl FnOnce(&mut Buffers) -> Result<WeightView<'w>, WeightError>,
    quantizer: &dyn Quantizer,
    form: StoredForm,
) -> Option<QuantizeError> {
    let limit = match form {
        // Holds what any form held.
        StoredForm::Float32 => return None,
        StoredForm::Float16 => 65504.0,
        _ => ORDINARY,
    };
    let mut context = QuantizeContext::new();
    let weight = weight(&mut context.buffers).ok()?;
    let largest = encode::ranges(weight.as_le_bytes(), Layout::per_tensor(weight.len())).map(|ranges| {
        let magnitude = |range: &encode::Range| f32::max(range.bounds().0.abs(), range.bounds().1.abs());
        ranges.iter().map(magnitude).fold(0.0, f32::max)
    });
    if largest.is_ok_and(|largest| largest <= limit) {
        return None;
    }
    quantizer.quantize(weight, &mut context).err().filter(|error| reason(error).is_some())
}

/// The reason for which a weight stays, if the error is that its values cannot be stored.
pub(super) fn reason(error: &QuantizeError) -> Option<Reason> {
    match *error {
        QuantizeError::NonFinite { index, .. } => Some(Reason::NonFinite { index }),
        QuantizeError::Float16Range { index, .. } => Some(Reason::BeyondFloat16 { index }),
        QuantizeError::ScaleRange { channel } => Some(Reason::BeyondScale { channel }),
        _ => None,
    }
}

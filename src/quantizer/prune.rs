//! prune: the smallest values become zero, and zeros are not stored.
//!
//! The arithmetic is that of [`crate::kernels::prune`].

use super::{QuantizeContext, Quantizer};
use crate::error::QuantizeError;
use crate::format::form::{ProgramForm, StoredForm};
use crate::program::recipe::Kind;
use crate::program::{Pruning, Recipe};
use crate::weight::{Payload, WeightSpec, WeightView};

/// Makes the smallest values of a weight zero, and stores the others with a bit for each value. Only ML Programs have
/// such a form.
///
/// # Errors
///
/// A value that is NaN; in a neural network, that there is no such form.
#[derive(Clone, Copy, Debug)]
pub struct Prune {
    pruning: Pruning,
}

impl Prune {
    /// Prunes by a rule.
    pub fn new(pruning: Pruning) -> Self {
        Self { pruning }
    }
}

impl Quantizer for Prune {
    fn stored_form(&self, weight: &WeightSpec<'_>) -> StoredForm {
        let kept = weight.shape().iter().product();
        StoredForm::Program(ProgramForm::Sparse { kept, float_bytes: 4 })
    }

    fn quantize(&self, _: WeightView<'_>, _: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        Err(QuantizeError::Other("neural networks have no sparse weights; ML Programs have".into()))
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe(Kind::Prune(self.pruning)))
    }
}

//! The stored weights of a layer as float32: the only place where the executor meets the forms of weights.

use std::borrow::Cow;

use crate::error::WeightError;
use crate::format::proto::{NeuralNetworkLayer, WeightParams};
use crate::network::layers::{self, Weight};
use crate::network::params;
use crate::network::shape::Shape;
use crate::weight::{Buffers, WeightSpec};

/// A weight that cannot be read: which, and why.
#[derive(Debug)]
pub(crate) struct UnreadableWeight {
    /// The field, as the table of weights names it.
    pub field: Cow<'static, str>,
    /// What is wrong.
    pub cause: WeightError,
}

/// The weights of one layer.
pub(crate) struct Weights<'l>(Vec<Weight<&'l WeightParams>>);

impl<'l> Weights<'l> {
    /// As the table of weights lists them.
    pub(crate) fn of(layer: &'l NeuralNetworkLayer) -> Self {
        Self(layers::weights(layer))
    }

    /// The values of a weight, row-major; `None` if the layer has no such weight, or works without it and it is not
    /// stored.
    ///
    /// # Errors
    ///
    /// If it is missing or not stored as its layer needs it.
    pub(crate) fn get(&self, field: &str) -> Result<Option<Vec<f32>>, UnreadableWeight> {
        let Some(weight) = self.0.iter().find(|weight| weight.field == field) else { return Ok(None) };
        let fail = |cause| UnreadableWeight { field: weight.field.clone(), cause };
        let shape = weight.shape.as_ref().map_err(|error| fail(error.clone().into()))?;
        if shape.units == 0 {
            return Ok(Some(Vec::new()));
        }
        match weight.params.filter(|params| !params.is_empty()) {
            Some(params) => values(params, shape).map(Some).map_err(fail),
            None if weight.optional => Ok(None),
            None => Err(fail(WeightError::Missing { expected: shape.units })),
        }
    }

    /// As [`get`](Self::get); no values where there is no weight.
    pub(crate) fn require(&self, field: &str) -> Result<Vec<f32>, UnreadableWeight> {
        Ok(self.get(field)?.unwrap_or_default())
    }
}

/// The values of a weight: one copy of what is stored as float32, decoded from every other form.
fn values(params: &WeightParams, shape: &Shape) -> Result<Vec<f32>, WeightError> {
    Ok(params::view(params, shape, WeightSpec::new(&shape.blocks), &mut Buffers::default())?.to_vec())
}

//! The weights of a model, listed once: which count, and in which form each is stored.

use std::borrow::Cow;
use std::sync::Arc;

use super::layers::{self, Weight};
use super::params;
use super::rules::Rule;
use super::shape::Shape;
use crate::error::{Place, ShapeError, WeightError};
use crate::format::form::StoredForm;
use crate::format::layer_type;
use crate::format::proto::{Model, NeuralNetworkLayer, WeightParams};
use crate::model::walk::{self, At};

/// A layer, and the weights of it that count.
#[derive(Debug)]
pub(crate) struct LayerWeights<'a, 'm> {
    /// Where the layer is.
    pub at: At<'a>,
    /// The layer.
    pub layer: &'m NeuralNetworkLayer,
    /// Its type under its name in the format; `None` if it has none.
    pub layer_type: Option<&'static str>,
    /// The weights that are stored, or that Core ML needs.
    pub weights: Vec<StoredWeight<'m>>,
}

/// A weight of a layer.
#[derive(Debug)]
pub(crate) struct StoredWeight<'m> {
    /// The field's name in the format.
    pub field: Cow<'static, str>,
    /// Its shape.
    pub shape: Result<Shape, ShapeError>,
    /// What may be stored in its place.
    pub rule: Rule,
    /// The weight as it is stored.
    pub params: Option<&'m WeightParams>,
}

impl<'m> StoredWeight<'m> {
    /// The weight, its shape, and the form it is stored in, everything about it checked.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn stored(&self) -> Result<(&'m WeightParams, &Shape, StoredForm), WeightError> {
        let shape = self.shape.as_ref().map_err(|error| WeightError::from(error.clone()))?;
        let params = self.params.ok_or(WeightError::Missing { expected: shape.units })?;
        Ok((params, shape, params::form(params, shape)?))
    }
}

impl LayerWeights<'_, '_> {
    /// The place of one of the weights.
    pub(crate) fn place(&self, weight: &StoredWeight<'_>) -> Place {
        Place {
            network: Arc::clone(self.at.network),
            layer: self.layer.name.as_str().into(),
            layer_type: self.layer_type.unwrap_or("none"),
            index: self.at.index,
            field: weight.field.clone(),
        }
    }
}

/// Visits every layer of every network of a model, in the model's order.
pub(crate) fn each<'m>(model: &'m Model, visit: &mut dyn FnMut(LayerWeights<'_, 'm>)) {
    walk::each_layer(model, &mut |at, layer| visit(of(at, layer)));
}

/// A layer with the weights that count.
pub(crate) fn of<'a, 'm>(at: At<'a>, layer: &'m NeuralNetworkLayer) -> LayerWeights<'a, 'm> {
    let weights = layers::weights(layer).into_iter().filter(counts).map(|weight| StoredWeight {
        field: weight.field,
        shape: weight.shape,
        rule: weight.rule,
        params: weight.params,
    });
    LayerWeights { at, layer, layer_type: layer_type(layer), weights: weights.collect() }
}

/// Whether a weight is stored, or Core ML needs it. What only its layer understands counts if it is stored as a weight
/// at all.
pub(crate) fn counts(weight: &Weight<&WeightParams>) -> bool {
    match (&weight.shape, weight.params.filter(|params| !params.is_empty())) {
        (Ok(shape), Some(params)) if weight.rule == Rule::LeaveAlone => params::form(params, shape).is_ok(),
        (_, Some(_)) => true,
        (shape, None) => {
            let has_values = shape.as_ref().map_or(true, |shape| shape.units > 0);
            !weight.optional && has_values && weight.rule != Rule::LeaveAlone
        }
    }
}

//! What a model holds: its layers and how their weights are stored.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::WeightError;
use crate::format::form::StoredForm;
use crate::format::proto::{NeuralNetworkLayer, WeightParams};
use crate::model::Model;
use crate::network::weights;

/// A layer of one of a model's networks.
#[derive(Debug)]
#[non_exhaustive]
pub struct LayerSurvey<'a> {
    /// The network's path: `model`, `model/pipeline[1]`, `model/cond/ifBranch`.
    pub network: Arc<str>,
    /// The layer.
    pub layer: &'a NeuralNetworkLayer,
    /// The layer's type under its name in the format; `None` if it has none.
    pub layer_type: Option<&'static str>,
    /// The weights that Core ML reads.
    pub weights: Vec<WeightSurvey<'a>>,
}

/// How a weight is stored.
#[derive(Debug)]
#[non_exhaustive]
pub struct WeightSurvey<'a> {
    /// The field's name in the format.
    pub field: Cow<'static, str>,
    /// The dimensions, row-major; empty if the layer's sizes make no shape.
    pub shape: Vec<usize>,
    /// The weight itself; `None` if it is missing.
    pub params: Option<&'a WeightParams>,
    /// The form it is stored in, or what is wrong with it.
    pub stored: Result<StoredForm, WeightError>,
}

impl Model {
    /// Every layer of every network: through pipelines, branches and loops, in the model's order.
    pub fn layers(&self) -> Vec<LayerSurvey<'_>> {
        let mut found = Vec::new();
        weights::each(self.proto(), &mut |layer| {
            let weights = layer.weights.into_iter().map(|weight| WeightSurvey {
                stored: weight.stored().map(|(_, _, form)| form),
                shape: weight.shape.map(|shape| shape.dims).unwrap_or_default(),
                field: weight.field,
                params: weight.params,
            });
            found.push(LayerSurvey {
                network: Arc::clone(layer.at.network),
                layer: layer.layer,
                layer_type: layer.layer_type,
                weights: weights.collect(),
            });
        });
        found
    }
}

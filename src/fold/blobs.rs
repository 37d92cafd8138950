//! Who reads and writes the blobs of a model, by name.
//!
//! Networks inside branches and loops see and overwrite the blobs around them by name, so one count serves them all.

use std::collections::{HashMap, HashSet};

use crate::format::proto::loss_layer::LossLayerType;
use crate::format::proto::model::Type;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{Model, NetworkUpdateParameters, NeuralNetworkLayer};
use crate::model::walk::{self, inner_networks};
use crate::network::layers;

/// What is known of one blob.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// How often layers read it.
    pub reads: usize,
    /// How often it is written: by layers, or once by the model's input.
    pub writes: usize,
    /// Whether it is seen from outside the network: an output, the input of a loss.
    pub is_output: bool,
    /// The step in which it was last written, while the layers are passed in order; 0 before.
    pub last_write: usize,
}

/// The blobs of one model's networks.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    usages: HashMap<String, Usage>,
    /// Names of layers that the model refers to.
    named_layers: HashSet<String>,
    /// Whether all arrays have the five dimensions `[sequence, batch, channel, height, width]` or the last four.
    pub has_rank_5: bool,
}

impl Blobs {
    /// Counts for the networks of one model; pipelines' members are models of their own.
    pub(super) fn of(model: &Model) -> Self {
        let mut blobs = Self::default();
        let Some((layers, mapping)) = walk::network(model) else { return blobs };
        blobs.has_rank_5 = !walk::is_exact(mapping) && layers.iter().all(layers::fold::keeps_rank_5);
        blobs.add_layers(layers);
        blobs.add_description(model);
        blobs
    }

    fn usage(&mut self, name: &str) -> &mut Usage {
        self.usages.entry(name.to_owned()).or_default()
    }

    fn add_layers(&mut self, layers: &[NeuralNetworkLayer]) {
        for layer in layers {
            for name in &layer.input {
                self.usage(name).reads += 1;
            }
            for name in &layer.output {
                self.usage(name).writes += 1;
            }
            if let Some(Layer::Loop(params)) = &layer.layer {
                self.usage(&params.condition_var).reads += 1;
            }
            for (_, inner) in inner_networks(layer) {
                self.add_layers(&inner.layers);
            }
        }
    }

    /// What the model's description, its labels and its training say of blobs.
    fn add_description(&mut self, model: &Model) {
        if let Some(description) = &model.description {
            for feature in description.input.iter().chain(&description.training_input).chain(&description.state) {
                self.usage(&feature.name).writes += 1;
            }
            let outputs = description.output.iter().chain(&description.state).map(|feature| &feature.name);
            for name in outputs.chain([&description.predicted_feature_name, &description.predicted_probabilities_name])
            {
                self.usage(name).is_output = true;
            }
        }
        let update = match &model.r#type {
            Some(Type::NeuralNetwork(network)) => &network.update_params,
            Some(Type::NeuralNetworkRegressor(network)) => &network.update_params,
            Some(Type::NeuralNetworkClassifier(network)) => {
                // The field is named after layers and means a blob.
                let name = &network.label_probability_layer_name;
                self.usage(name).is_output = true;
                self.named_layers.insert(name.clone());
                &network.update_params
            }
            _ => &None,
        };
        for name in update.iter().flat_map(losses) {
            self.usage(name).is_output = true;
        }
    }

    pub(super) fn get(&self, name: &str) -> Usage {
        self.usages.get(name).copied().unwrap_or_default()
    }

    /// Whether the model refers to a layer, and not to the blob that it writes.
    pub(super) fn is_named(&self, layer: &NeuralNetworkLayer) -> bool {
        self.named_layers.contains(&layer.name) && !layer.output.contains(&layer.name)
    }

    /// Notes that a layer has run.
    pub(super) fn written_by(&mut self, layer: &NeuralNetworkLayer, step: usize) {
        for name in &layer.output {
            if let Some(usage) = self.usages.get_mut(name) {
                usage.last_write = step;
            }
        }
    }
}

/// The blobs that training compares.
fn losses(update: &NetworkUpdateParameters) -> impl Iterator<Item = &str> {
    update.loss_layers.iter().filter_map(|loss| loss.loss_layer_type.as_ref()).flat_map(|loss| match loss {
        LossLayerType::CategoricalCrossEntropyLossLayer(loss) => [loss.input.as_str(), &loss.target],
        LossLayerType::MeanSquaredErrorLossLayer(loss) => [loss.input.as_str(), &loss.target],
    })
}

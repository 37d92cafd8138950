//! The way through a model: every network in it, and every layer of those, in one fixed order.
//!
//! Networks hide in pipelines, which nest, and in the branches and loops of other networks. This is the only place
//! that knows where. A layer comes before the layers inside it, a network before those of the next pipeline member.

use std::sync::Arc;

use crate::format::proto::model::Type;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{Model, NeuralNetwork, NeuralNetworkLayer, NeuralNetworkMultiArrayShapeMapping, Pipeline};

/// Where a layer is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    /// The network's path: `model`, `model/pipeline[1]`, `model/cond/ifBranch`.
    pub network: &'a Arc<str>,
    /// The types of the layers that the network lies in: `branch`, `loop`.
    pub inside: &'a [&'static str],
    /// Whether arrays keep their own shape in the model's network (exact mapping), as int8 activations need.
    pub exact_arrays: bool,
    /// The layer's index among all layers of the model.
    pub index: usize,
}

/// The path of the outermost model.
pub(crate) const ROOT: &str = "model";

fn member_path(path: &str, index: usize) -> String {
    format!("{path}/pipeline[{index}]")
}

/// The path of a network inside a layer. A name that nobody would read is cut off, so that nested ones do not add up.
pub(crate) fn inner_path(path: &str, layer_name: &str, field: &str) -> String {
    let end = layer_name.char_indices().nth(MAX_NAME_CHARS).map_or(layer_name.len(), |(end, _)| end);
    format!("{path}/{}/{field}", &layer_name[..end])
}

/// How much of a layer's name is in the paths of the networks inside it.
const MAX_NAME_CHARS: usize = 200;

/// The layers of a model's own network, and how it maps the shapes of arrays.
pub(crate) fn network(model: &Model) -> Option<(&Vec<NeuralNetworkLayer>, i32)> {
    match model.r#type.as_ref()? {
        Type::NeuralNetwork(network) => Some((&network.layers, network.array_input_shape_mapping)),
        Type::NeuralNetworkClassifier(network) => Some((&network.layers, network.array_input_shape_mapping)),
        Type::NeuralNetworkRegressor(network) => Some((&network.layers, network.array_input_shape_mapping)),
        _ => None,
    }
}

/// As [`network`], to be changed.
pub(crate) fn network_mut(model: &mut Model) -> Option<(&mut Vec<NeuralNetworkLayer>, i32)> {
    match model.r#type.as_mut()? {
        Type::NeuralNetwork(network) => Some((&mut network.layers, network.array_input_shape_mapping)),
        Type::NeuralNetworkClassifier(network) => Some((&mut network.layers, network.array_input_shape_mapping)),
        Type::NeuralNetworkRegressor(network) => Some((&mut network.layers, network.array_input_shape_mapping)),
        _ => None,
    }
}

fn pipeline(model: &Model) -> Option<&Pipeline> {
    match model.r#type.as_ref()? {
        Type::Pipeline(pipeline) => Some(pipeline),
        Type::PipelineClassifier(classifier) => classifier.pipeline.as_ref(),
        Type::PipelineRegressor(regressor) => regressor.pipeline.as_ref(),
        _ => None,
    }
}

fn pipeline_mut(model: &mut Model) -> Option<&mut Pipeline> {
    match model.r#type.as_mut()? {
        Type::Pipeline(pipeline) => Some(pipeline),
        Type::PipelineClassifier(classifier) => classifier.pipeline.as_mut(),
        Type::PipelineRegressor(regressor) => regressor.pipeline.as_mut(),
        _ => None,
    }
}

/// Visits a model and the members of its pipelines, outer ones first.
pub(crate) fn each_model<'m>(model: &'m Model, path: &str, visit: &mut dyn FnMut(&str, &'m Model)) {
    visit(path, model);
    for (path, member) in members(model, path) {
        each_model(member, &path, visit);
    }
}

/// The members of a pipeline, with their paths; none if the model is something else.
pub(crate) fn members<'m>(model: &'m Model, path: &str) -> impl Iterator<Item = (String, &'m Model)> {
    let members = pipeline(model).into_iter().flat_map(|pipeline| &pipeline.models).enumerate();
    members.map(move |(index, member)| (member_path(path, index), member))
}

/// The members of a pipeline, to be changed.
pub(crate) fn members_mut(model: &mut Model) -> impl Iterator<Item = &mut Model> {
    pipeline_mut(model).into_iter().flat_map(|pipeline| &mut pipeline.models)
}

/// Visits every layer.
pub(crate) fn each_layer<'m>(model: &'m Model, visit: &mut dyn FnMut(At<'_>, &'m NeuralNetworkLayer)) {
    let mut index = 0;
    each_model(model, ROOT, &mut |path, model| each_own_layer(model, path, &mut index, visit));
}

/// Visits the layers of a model's own network, and of the networks inside that. `index` is that of the next layer.
pub(crate) fn each_own_layer<'m>(
    model: &'m Model,
    path: &str,
    index: &mut usize,
    visit: &mut dyn FnMut(At<'_>, &'m NeuralNetworkLayer),
) {
    if let Some((layers, mapping)) = network(model) {
        let at = At { network: &path.into(), inside: &[], exact_arrays: is_exact(mapping), index: 0 };
        each_layer_in(layers, at, index, visit);
    }
}

fn each_layer_in<'m>(
    layers: &'m [NeuralNetworkLayer],
    at: At<'_>,
    index: &mut usize,
    visit: &mut dyn FnMut(At<'_>, &'m NeuralNetworkLayer),
) {
    for layer in layers {
        visit(At { index: *index, ..at }, layer);
        *index += 1;
        for (field, inner) in inner_networks(layer) {
            let inside = inside(at, layer);
            let network = inner_path(at.network, &layer.name, field).into();
            each_layer_in(&inner.layers, At { network: &network, inside: &inside, ..at }, index, visit);
        }
    }
}

/// Changes a model level by level: `change` gets every model with a network, in the order of [`each_model`], and
/// returns the specificationVersion that its result needs; the version of the model and of those around it is raised
/// to that.
pub(crate) fn change_networks(model: &mut Model, path: &str, change: &mut dyn FnMut(&str, &mut Model) -> i32) -> i32 {
    let mut version = if network(model).is_some() { change(path, model) } else { 0 };
    for (index, member) in pipeline_mut(model).into_iter().flat_map(|pipeline| &mut pipeline.models).enumerate() {
        version = version.max(change_networks(member, &member_path(path, index), change));
    }
    model.specification_version = model.specification_version.max(version);
    version
}

/// Visits a model and the members of its pipelines to change them, in the order of [`each_model`].
pub(crate) fn change_models(model: &mut Model, visit: &mut dyn FnMut(&mut Model)) {
    visit(model);
    for member in pipeline_mut(model).into_iter().flat_map(|pipeline| &mut pipeline.models) {
        change_models(member, visit);
    }
}

/// Visits every layer of a model's own network to change it, in the order of [`each_layer`]. `index` is that of the next
/// layer.
pub(crate) fn change_layers(
    layers: &mut [NeuralNetworkLayer],
    index: &mut usize,
    visit: &mut dyn FnMut(usize, &mut NeuralNetworkLayer),
) {
    for layer in layers {
        visit(*index, layer);
        *index += 1;
        for (_, inner) in inner_networks_mut(layer) {
            change_layers(&mut inner.layers, index, visit);
        }
    }
}

fn inside(at: At<'_>, layer: &NeuralNetworkLayer) -> Vec<&'static str> {
    at.inside.iter().copied().chain(crate::format::layer_type(layer)).collect()
}

/// Whether arrays keep their own shape (exact mapping).
pub(crate) fn is_exact(mapping: i32) -> bool {
    mapping == NeuralNetworkMultiArrayShapeMapping::ExactArrayMapping as i32
}

/// The networks inside a layer, with the names of their fields.
pub(crate) fn inner_networks(layer: &NeuralNetworkLayer) -> Vec<(&'static str, &NeuralNetwork)> {
    let networks = match &layer.layer {
        Some(Layer::Branch(p)) => [("ifBranch", p.if_branch.as_ref()), ("elseBranch", p.else_branch.as_ref())],
        Some(Layer::Loop(p)) => {
            [("conditionNetwork", p.condition_network.as_ref()), ("bodyNetwork", p.body_network.as_ref())]
        }
        _ => return Vec::new(),
    };
    networks.into_iter().filter_map(|(name, network)| Some((name, network?))).collect()
}

/// Number of layers in the networks inside a layer.
#[cfg(feature = "predict")]
pub(crate) fn layers_inside(layer: &NeuralNetworkLayer) -> usize {
    let of = |layer: &NeuralNetworkLayer| 1 + layers_inside(layer);
    inner_networks(layer).iter().map(|(_, network)| network.layers.iter().map(of).sum::<usize>()).sum()
}

/// As [`inner_networks`], to be changed.
pub(crate) fn inner_networks_mut(layer: &mut NeuralNetworkLayer) -> Vec<(&'static str, &mut NeuralNetwork)> {
    let networks = match &mut layer.layer {
        Some(Layer::Branch(p)) => [("ifBranch", p.if_branch.as_mut()), ("elseBranch", p.else_branch.as_mut())],
        Some(Layer::Loop(p)) => {
            [("conditionNetwork", p.condition_network.as_mut()), ("bodyNetwork", p.body_network.as_mut())]
        }
        _ => return Vec::new(),
    };
    networks.into_iter().filter_map(|(name, network)| Some((name, network?))).collect()
}

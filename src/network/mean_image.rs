//! Mean images: what a network's preprocessing subtracts from an image, pixel by pixel, in float32.
//!
//! A mean image is as large as the image and cannot be stored in fewer bits. A `bias` layer that adds its negative
//! computes the same numbers, since `x - m` and `x + (-m)` are the same in floating point, and its weight can.
//!
//! The layer is put in only where that provably changes nothing: the image has one size, nothing else is done with it
//! before (the order of several steps is not documented), and nothing but layers reads it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::format::proto::feature_type::Type as FeatureType;
use crate::format::proto::image_feature_type::ColorSpace;
use crate::format::proto::model::Type;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::neural_network_preprocessing::Preprocessor;
use crate::format::proto::{
    BiasLayerParams, FeatureDescription, Model, NeuralNetworkImageScaler, NeuralNetworkLayer,
    NeuralNetworkPreprocessing, WeightParams,
};
use crate::model::walk;

/// A mean image in the preprocessing of a network: float32 values that are subtracted from an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MeanImage {
    /// The network: `model`, `model/pipeline[1]`.
    pub network: Arc<str>,
    /// The image that it is subtracted from, an input of the network.
    pub feature: String,
    /// Number of values.
    pub values: usize,
    /// Why it cannot become the weight of a `bias` layer; `None` if it can.
    pub obstacle: Option<MeanImageObstacle>,
}

impl MeanImage {
    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.values.saturating_mul(size_of::<f32>())
    }
}

/// Why a mean image cannot become the weight of a `bias` layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum MeanImageObstacle {
    /// No image of this name is an input.
    NoImage,
    /// The image may have several sizes, or its pixels are not as many as the values.
    Size,
    /// Something else is done with the image, and nobody says in which order.
    OtherPreprocessing,
    /// The image is also written by a layer, or an output of the model.
    Overwritten,
    /// No layer reads the image.
    NotRead,
    /// Not all values are finite.
    NonFinite,
}

impl fmt::Display for MeanImageObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoImage => "no image of this name is an input",
            Self::Size => "the image is not of one size with as many values",
            Self::OtherPreprocessing => "the image is also scaled or shifted",
            Self::Overwritten => "the image is also written by a layer or an output",
            Self::NotRead => "no layer reads the image",
            Self::NonFinite => "not all values are finite",
        })
    }
}

impl fmt::Display for MeanImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: mean image of \"{}\", {} bytes in float32", self.network, self.feature, self.bytes())?;
        match self.obstacle {
            Some(obstacle) => write!(f, ", cannot become a bias layer: {obstacle}"),
            None => f.write_str(", could become a bias layer"),
        }
    }
}

/// The mean images of every network of a model, in the model's order.
pub(crate) fn mean_images(model: &Model) -> Vec<MeanImage> {
    let mut found = Vec::new();
    walk::each_model(model, walk::ROOT, &mut |path, model| {
        let facts = Facts::of(model);
        for preprocessing in preprocessing(model) {
            if let Some(Preprocessor::MeanImage(mean)) = &preprocessing.preprocessor {
                let input = facts.input_of(preprocessing);
                found.push(MeanImage {
                    network: path.into(),
                    feature: input.map_or(&preprocessing.feature_name, |input| &input.name).clone(),
                    values: mean.mean_image.len(),
                    obstacle: facts.shape(preprocessing, &mean.mean_image).err(),
                });
            }
        }
    });
    found
}

/// Makes mean images the weights of `bias` layers, where that can be and `chosen` says so, given the path of the network
/// and the name of the image.
pub(crate) fn make_biases(model: &mut Model, chosen: &dyn Fn(&str, &str) -> bool) {
    walk::change_networks(model, walk::ROOT, &mut |path, model| {
        let biases = biases(model, &|feature| chosen(path, feature));
        if let Some((layers, preprocessing)) = parts_mut(model)
            && !biases.is_empty()
        {
            let removed: HashSet<usize> = biases.iter().map(|(index, _)| *index).collect();
            let mut index = 0;
            preprocessing.retain(|_| (!removed.contains(&index), index += 1).0);
            let output =
                |layer: &NeuralNetworkLayer| layer.input.iter().cloned().zip(layer.output.iter().cloned()).next();
            let names: HashMap<String, String> = biases.iter().filter_map(|(_, layer)| output(layer)).collect();
            walk::change_layers(layers, &mut 0, &mut |_, layer| {
                for input in &mut layer.input {
                    if let Some(output) = names.get(input) {
                        output.clone_into(input);
                    }
                }
            });
            layers.splice(..0, biases.into_iter().map(|(_, layer)| layer));
        }
        // A bias layer needs no newer version.
        0
    });
}

/// The layers that do what the mean images of a network do, with the indices of those in its preprocessing.
fn biases(model: &Model, chosen: &dyn Fn(&str) -> bool) -> Vec<(usize, NeuralNetworkLayer)> {
    let mut facts = Facts::of(model);
    let mut found = Vec::new();
    for (index, preprocessing) in preprocessing(model).iter().enumerate() {
        let Some(Preprocessor::MeanImage(mean)) = &preprocessing.preprocessor else { continue };
        let Some(input) = facts.input_of(preprocessing).map(|input| &input.name) else { continue };
        let Some(shape) = facts.shape(preprocessing, &mean.mean_image).ok().filter(|_| chosen(input)) else { continue };
        let output = facts.unused_name(format!("{input}_without_mean"));
        // Not the negative: that of 0 would be another value.
        let values: Vec<f32> = mean.mean_image.iter().map(|mean| 0.0 - mean).collect();
        let bias = BiasLayerParams { shape: shape.to_vec(), bias: Some(WeightParams::from_floats(&values)) };
        let layer = NeuralNetworkLayer {
            name: output.clone(),
            input: vec![input.clone()],
            output: vec![output],
            layer: Some(Layer::Bias(bias)),
            ..Default::default()
        };
        found.push((index, layer));
    }
    found
}

/// What is known of a model and its own network.
#[derive(Default)]
struct Facts<'m> {
    inputs: HashMap<&'m str, &'m FeatureDescription>,
    /// The input, if there is a single one.
    only: Option<&'m FeatureDescription>,
    /// How many steps of preprocessing change an image.
    steps: HashMap<&'m str, usize>,
    /// Arrays that layers read.
    read: HashSet<&'m str>,
    /// Arrays that layers write, or that are outputs.
    written: HashSet<&'m str>,
    /// Names of layers, arrays and features.
    used: HashSet<Cow<'m, str>>,
}

impl<'m> Facts<'m> {
    fn of(model: &'m Model) -> Self {
        let mut facts = Self::default();
        let steps = preprocessing(model);
        if !steps.iter().any(|step| matches!(step.preprocessor, Some(Preprocessor::MeanImage(_)))) {
            return facts;
        }
        if let Some(description) = &model.description {
            for input in &description.input {
                facts.inputs.entry(&input.name).or_insert(input);
            }
            facts.only = description.input.first().filter(|_| description.input.len() == 1);
            facts.written.extend(description.output.iter().map(|output| output.name.as_str()));
            let features = description.input.iter().chain(&description.output).chain(&description.training_input);
            let names = features.chain(&description.state).map(|feature| &feature.name);
            let labels = [&description.predicted_feature_name, &description.predicted_probabilities_name];
            facts.used.extend(names.chain(labels).map(|name| Cow::Borrowed(name.as_str())));
        }
        for step in steps.iter().filter(|step| !is_nothing(step)) {
            if let Some(input) = facts.input_of(step) {
                *facts.steps.entry(&input.name).or_default() += 1;
            }
        }
        facts.add_layers(walk::network(model).map_or(&[], |(layers, _)| layers));
        facts
    }

    fn add_layers(&mut self, layers: &'m [NeuralNetworkLayer]) {
        for layer in layers {
            self.read.extend(layer.input.iter().map(String::as_str));
            self.written.extend(layer.output.iter().map(String::as_str));
            if let Some(Layer::Loop(params)) = &layer.layer {
                self.written.insert(&params.condition_var);
            }
            let names = layer.input.iter().chain(&layer.output).chain([&layer.name]);
            self.used.extend(names.map(|name| Cow::Borrowed(name.as_str())));
            for (_, inner) in walk::inner_networks(layer) {
                self.add_layers(&inner.layers);
            }
        }
    }

    /// The input that a step of preprocessing is for: that of its name, or the only one if it has none.
    fn input_of(&self, step: &NeuralNetworkPreprocessing) -> Option<&'m FeatureDescription> {
        let named = self.inputs.get(&*step.feature_name).copied();
        named.or(self.only.filter(|_| step.feature_name.is_empty()))
    }

    /// The shape `[channels, height, width]` of the bias that does what a mean image does.
    fn shape(&self, step: &NeuralNetworkPreprocessing, mean: &[f32]) -> Result<[u64; 3], MeanImageObstacle> {
        let input = self.input_of(step).ok_or(MeanImageObstacle::NoImage)?;
        let image = match input.r#type.as_ref().and_then(|kind| kind.r#type.as_ref()) {
            Some(FeatureType::ImageType(image)) => image,
            _ => return Err(MeanImageObstacle::NoImage),
        };
        let channels = match image.color_space() {
            ColorSpace::Rgb | ColorSpace::Bgr => 3,
            ColorSpace::Grayscale | ColorSpace::GrayscaleFloat16 => 1,
            ColorSpace::InvalidColorSpace => return Err(MeanImageObstacle::Size),
        };
        let size = |size: i64| u64::try_from(size).map_err(|_| MeanImageObstacle::Size);
        let shape = [channels, size(image.height)?, size(image.width)?];
        let values = shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
        if image.size_flexibility.is_some() || values != Some(mean.len() as u64) || mean.is_empty() {
            return Err(MeanImageObstacle::Size);
        }
        if !mean.iter().all(|value| value.is_finite()) {
            return Err(MeanImageObstacle::NonFinite);
        }
        let name = input.name.as_str();
        if self.steps.get(name).is_some_and(|&steps| steps > 1) {
            return Err(MeanImageObstacle::OtherPreprocessing);
        }
        if self.written.contains(name) {
            return Err(MeanImageObstacle::Overwritten);
        }
        if self.read.contains(name) { Ok(shape) } else { Err(MeanImageObstacle::NotRead) }
    }

    /// A name that no layer, array or feature has, made from a wish.
    fn unused_name(&mut self, mut wish: String) -> String {
        while !self.used.insert(Cow::Owned(wish.clone())) {
            wish.push('_');
        }
        wish
    }
}

/// Whether a step of preprocessing leaves the image as it is.
fn is_nothing(preprocessing: &NeuralNetworkPreprocessing) -> bool {
    match &preprocessing.preprocessor {
        None => true,
        Some(Preprocessor::MeanImage(_)) => false,
        Some(Preprocessor::Scaler(scaler)) => {
            let NeuralNetworkImageScaler { channel_scale, blue_bias, green_bias, red_bias, gray_bias } = *scaler;
            // A scale of 0 is one that is not set.
            (channel_scale == 1.0 || channel_scale == 0.0)
                && [blue_bias, green_bias, red_bias, gray_bias].iter().all(|&bias| bias == 0.0)
        }
    }
}

fn preprocessing(model: &Model) -> &[NeuralNetworkPreprocessing] {
    match &model.r#type {
        Some(Type::NeuralNetwork(network)) => &network.preprocessing,
        Some(Type::NeuralNetworkClassifier(network)) => &network.preprocessing,
        Some(Type::NeuralNetworkRegressor(network)) => &network.preprocessing,
        _ => &[],
    }
}

fn parts_mut(model: &mut Model) -> Option<(&mut Vec<NeuralNetworkLayer>, &mut Vec<NeuralNetworkPreprocessing>)> {
    match &mut model.r#type {
        Some(Type::NeuralNetwork(network)) => Some((&mut network.layers, &mut network.preprocessing)),
        Some(Type::NeuralNetworkClassifier(network)) => Some((&mut network.layers, &mut network.preprocessing)),
        Some(Type::NeuralNetworkRegressor(network)) => Some((&mut network.layers, &mut network.preprocessing)),
        _ => None,
    }
}

//! What calibration runs on: samples of a model's inputs, and how they enter its network.

use std::collections::BTreeMap;

use ndarray::{ArrayD, Axis, IxDyn};
use rayon::prelude::*;

use super::moments::generator;
use super::synthetic::dead_leaves;
use crate::format::proto::feature_type::Type as FeatureKind;
use crate::format::proto::image_feature_type::ColorSpace;
use crate::format::proto::neural_network_preprocessing::Preprocessor;
use crate::format::proto::{FeatureDescription, Model, NeuralNetworkPreprocessing};
use crate::network::walk;
use crate::predict::Tensor;

/// Values for the inputs of a model, by name. Images are planes of 0 to 255, `[channels, height, width]`, in the
/// model's order of colours; arrays have the declared shape, or sequence and batch before it.
pub type Sample = BTreeMap<String, ArrayD<f32>>;

/// Samples that go through the network while its weights are chosen: as it will be used, without labels. 128 are
/// usually enough.
///
/// ```
/// use coreml_quant::{Calibration, QuantConfig};
///
/// # fn main() -> Result<(), coreml_quant::ConfigError> {
/// let config = QuantConfig::kmeans_lut(2)?.with_calibration(Calibration::synthetic(128));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Calibration {
    source: Source,
    pub(super) seed: u64,
    pub(super) positions: usize,
}

#[derive(Clone, Debug)]
enum Source {
    Given(Vec<Sample>),
    Synthetic(usize),
}

/// Positions of a convolution whose inputs are looked at, over all samples.
const POSITIONS: usize = 4096;

impl Calibration {
    /// On samples.
    pub fn new(samples: impl IntoIterator<Item = Sample>) -> Self {
        Self { source: Source::Given(samples.into_iter().collect()), seed: 0, positions: POSITIONS }
    }

    /// On pictures that are drawn: overlapping shapes of random sizes and values, from 0 to 255 for images, from 0 to
    /// 1 for arrays. Better than nothing for networks that see pictures, and no substitute for data.
    pub fn synthetic(count: usize) -> Self {
        Self { source: Source::Synthetic(count), seed: 0, positions: POSITIONS }
    }

    /// The seed of what is drawn: synthetic samples, and positions. Default: 0.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// At how many output positions of a convolution its inputs are looked at, over all samples, and a quarter of the
    /// vectors that other layers look at; memory and time grow with it. At least 1. Default: 4,096.
    #[must_use]
    pub fn with_positions(mut self, positions: usize) -> Self {
        self.positions = positions.max(1);
        self
    }

    /// The blobs of the model's own network for each sample, preprocessed.
    pub(super) fn blobs(&self, model: &Model) -> Vec<BTreeMap<String, Tensor>> {
        let inputs = model.description.as_ref().map_or(&[][..], |description| &description.input);
        let (rank5, preprocessing) = entrance(model);
        let enter = |sample: &Sample| {
            let mut blobs = BTreeMap::new();
            for input in inputs {
                if let Some(array) = sample.get(&input.name) {
                    let array = preprocess(array.clone(), input, preprocessing);
                    let array = if rank5 { to_rank5(array, declared(input).len()) } else { array };
                    blobs.insert(input.name.clone(), array.into_shared());
                }
            }
            blobs
        };
        match &self.source {
            Source::Given(samples) => samples.par_iter().map(enter).collect(),
            Source::Synthetic(count) => {
                let mut rng = generator(self.seed);
                let mut sample = || -> Sample {
                    let drawn = inputs.iter().filter_map(|input| {
                        let shape = declared(input);
                        let (channels, height, width) = match shape[..] {
                            [height, width] => (1, height, width),
                            [channels, height, width] | [1, channels, height, width] => (channels, height, width),
                            [channels] => (1, 1, channels),
                            _ => return None,
                        };
                        let mut picture = dead_leaves(channels, height, width, &mut rng);
                        if is_image(input) {
                            picture.iter_mut().for_each(|value| *value *= 255.0);
                        }
                        Some((input.name.clone(), ArrayD::from_shape_vec(IxDyn(&shape), picture).ok()?))
                    });
                    drawn.collect()
                };
                let samples: Vec<Sample> = (0..*count).map(|_| sample()).collect();
                samples.par_iter().map(enter).collect()
            }
        }
    }
}

fn is_image(input: &FeatureDescription) -> bool {
    matches!(input.r#type.as_ref().and_then(|kind| kind.r#type.as_ref()), Some(FeatureKind::ImageType(_)))
}

/// The declared shape of an input.
fn declared(input: &FeatureDescription) -> Vec<usize> {
    match input.r#type.as_ref().and_then(|kind| kind.r#type.as_ref()) {
        Some(FeatureKind::ImageType(image)) => {
            let channels = if image.color_space() == ColorSpace::Grayscale { 1 } else { 3 };
            vec![channels, image.height.max(1) as usize, image.width.max(1) as usize]
        }
        Some(FeatureKind::MultiArrayType(array)) => array.shape.iter().map(|&size| size.max(1) as usize).collect(),
        _ => Vec::new(),
    }
}

/// Whether arrays become five-dimensional, and what images go through first.
fn entrance(model: &Model) -> (bool, &[NeuralNetworkPreprocessing]) {
    use crate::format::proto::model::Type;
    let exact = walk::network(model).is_some_and(|(_, mapping)| walk::is_exact(mapping));
    let preprocessing = match model.r#type.as_ref() {
        Some(Type::NeuralNetwork(network)) => &network.preprocessing[..],
        Some(Type::NeuralNetworkClassifier(network)) => &network.preprocessing,
        Some(Type::NeuralNetworkRegressor(network)) => &network.preprocessing,
        _ => &[],
    };
    (!exact, preprocessing)
}

fn preprocess(
    mut image: ArrayD<f32>,
    input: &FeatureDescription,
    preprocessing: &[NeuralNetworkPreprocessing],
) -> ArrayD<f32> {
    let Some(FeatureKind::ImageType(kind)) = input.r#type.as_ref().and_then(|kind| kind.r#type.as_ref()) else {
        return image;
    };
    let own = |step: &&NeuralNetworkPreprocessing| step.feature_name == input.name || step.feature_name.is_empty();
    for step in preprocessing.iter().filter(own) {
        match &step.preprocessor {
            Some(Preprocessor::Scaler(scaler)) => {
                let scale = if scaler.channel_scale == 0.0 { 1.0 } else { scaler.channel_scale };
                let biases = match kind.color_space() {
                    ColorSpace::Grayscale => vec![scaler.gray_bias],
                    ColorSpace::Bgr => vec![scaler.blue_bias, scaler.green_bias, scaler.red_bias],
                    _ => vec![scaler.red_bias, scaler.green_bias, scaler.blue_bias],
                };
                if let Some(channels) = image.ndim().checked_sub(3) {
                    let planes = image.axis_iter_mut(Axis(channels));
                    for (mut plane, bias) in planes.zip(biases) {
                        plane.mapv_inplace(|value| value * scale + bias);
                    }
                }
            }
            Some(Preprocessor::MeanImage(mean)) if mean.mean_image.len() == image.len() => {
                image.iter_mut().zip(&mean.mean_image).for_each(|(value, mean)| *value -= mean);
            }
            _ => {}
        }
    }
    image
}

/// `[sequence, batch, channels, height, width]`.
fn to_rank5(array: ArrayD<f32>, declared: usize) -> ArrayD<f32> {
    let given = array.shape().to_vec();
    let before = given.len().saturating_sub(declared.max(1)).min(2);
    let shape = match given.len() {
        5 => given,
        len if len > 5 => return array,
        _ => {
            let (outer, inner) = given.split_at(before);
            let mut shape = vec![1; 2 - outer.len()];
            shape.extend(outer);
            shape.extend(inner);
            shape.resize(5, 1);
            shape
        }
    };
    let len = array.len();
    match array.into_shape_with_order(IxDyn(&shape)) {
        Ok(array) => array,
        Err(_) => ArrayD::zeros(IxDyn(&[1, 1, len, 1, 1])),
    }
}

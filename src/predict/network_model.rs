//! A model that is a network: how features become blobs, and blobs features.
//!
//! With the `RANK5` mapping, blobs are `[sequence, batch, channel, height, width]`: `[C]` becomes `[1, 1, C, 1, 1]`, and
//! `[C, H, W]` becomes `[1, 1, C, H, W]`; one or two axes more than declared are batch, or sequence and batch. What comes
//! out loses the axes that were added, unless there is a sequence or batch: then all five stay. With the `EXACT` mapping,
//! shapes stay as they are. Images become planes in the model's order of colours, then `scale * value + bias` by colour,
//! or minus a mean image.

use ndarray::IxDyn;

use super::description::{FeatureInfo, FeatureKind};
use super::error::PredictError;
use super::features::{ColorOrder, Features, Value};
use super::network::{Network, Observer, Options};
use super::tensor::Tensor;
use crate::format::proto::model::Type;
use crate::format::proto::neural_network_classifier::ClassLabels;
use crate::format::proto::neural_network_preprocessing::Preprocessor;
use crate::format::proto::{self, NeuralNetworkImageShapeMapping, NeuralNetworkPreprocessing};
use crate::model::walk;

/// What is uncertain about the inputs and outputs of networks.
pub(crate) const BATCH: &str = "inputs: one axis more than declared is the batch";
pub(crate) const PREPROCESSORS: &str = "image inputs: several preprocessors are applied in the order of their list";
pub(crate) const CHANNEL_SCALE: &str = "image inputs: a channelScale of 0 is not set, and 1";
pub(crate) const RANK: &str = "outputs: blobs with a sequence or batch keep all five axes";
pub(crate) const IMAGE_OUTPUT: &str = "image outputs: the blob is returned as it is, neither rounded nor clipped";
pub(crate) const SCORES: &str = "classifiers: of equal scores, the first label is predicted";

/// Labels of a classifier.
#[derive(Clone, Debug)]
pub(crate) enum Labels {
    Strings(Vec<String>),
    Numbers(Vec<i64>),
}

impl Labels {
    fn len(&self) -> usize {
        match self {
            Self::Strings(labels) => labels.len(),
            Self::Numbers(labels) => labels.len(),
        }
    }

    /// The label of the best score, and all scores by their labels.
    pub(crate) fn classify(&self, scores: &[f64]) -> Option<(Value, Value)> {
        if self.len() != scores.len() {
            return None;
        }
        let mut best = 0;
        for (index, score) in scores.iter().enumerate() {
            if *score > scores[best] {
                best = index;
            }
        }
        Some(match self {
            Self::Strings(labels) => (
                Value::String(labels.get(best)?.clone()),
                Value::StringDictionary(labels.iter().cloned().zip(scores.iter().copied()).collect()),
            ),
            Self::Numbers(labels) => (
                Value::Int64(*labels.get(best)?),
                Value::Int64Dictionary(labels.iter().copied().zip(scores.iter().copied()).collect()),
            ),
        })
    }
}

/// A classifier's own outputs.
#[derive(Clone, Debug)]
struct Classes {
    labels: Labels,
    /// The blob of scores, by its place among the network's outputs.
    scores: usize,
    label_name: String,
    scores_name: String,
}

/// A model with a network.
#[derive(Clone, Debug)]
pub(crate) struct NetworkModel {
    pub network: Network,
    pub inputs: Vec<FeatureInfo>,
    pub outputs: Vec<FeatureInfo>,
    preprocessing: Vec<NeuralNetworkPreprocessing>,
    exact_arrays: bool,
    images_of_rank_4: bool,
    /// The network's outputs: the features that they are, or none.
    features: Vec<Option<FeatureInfo>>,
    classes: Option<Classes>,
}

impl NetworkModel {
    /// `None` if the model has no network of its own.
    pub(crate) fn compile(model: &proto::Model, path: &str) -> Result<Option<Self>, PredictError> {
        let Some((layers, mapping)) = walk::network(model) else { return Ok(None) };
        let (preprocessing, image_mapping, labels, scores) = match &model.r#type {
            Some(Type::NeuralNetwork(network)) => (&network.preprocessing, network.image_input_shape_mapping, None, ""),
            Some(Type::NeuralNetworkRegressor(network)) => {
                (&network.preprocessing, network.image_input_shape_mapping, None, "")
            }
            Some(Type::NeuralNetworkClassifier(network)) => {
                let labels = match &network.class_labels {
                    Some(ClassLabels::StringClassLabels(labels)) => Some(Labels::Strings(labels.vector.clone())),
                    Some(ClassLabels::Int64ClassLabels(labels)) => Some(Labels::Numbers(labels.vector.clone())),
                    None => None,
                };
                let scores = network.label_probability_layer_name.as_str();
                (&network.preprocessing, network.image_input_shape_mapping, labels, scores)
            }
            _ => return Ok(None),
        };
        let none = proto::ModelDescription::default();
        let description = model.description.as_ref().unwrap_or(&none);
        let inputs: Vec<FeatureInfo> = description.input.iter().map(FeatureInfo::of).collect();
        let outputs: Vec<FeatureInfo> = description.output.iter().map(FeatureInfo::of).collect();
        let last = layers.last().and_then(|layer| layer.output.first()).map_or("", String::as_str);
        let regressed = matches!(model.r#type, Some(Type::NeuralNetworkRegressor(_)));
        let writes = |name: &str| layers.iter().any(|layer| layer.output.iter().any(|output| output == name));
        let mut blobs: Vec<&str> = Vec::new();
        let mut features = Vec::new();
        for output in &outputs {
            let own = labels.is_some()
                && [&description.predicted_feature_name, &description.predicted_probabilities_name]
                    .into_iter()
                    .any(|name| *name == output.name);
            if own {
                continue;
            }
            // A regressor may name its output otherwise than its blob.
            let renamed = regressed && output.name == description.predicted_feature_name && !writes(&output.name);
            blobs.push(if renamed { last } else { &output.name });
            features.push(Some(output.clone()));
        }
        let classes = labels.map(|labels| {
            let blob = if scores.is_empty() { last } else { scores };
            let scores = blobs.iter().position(|name| *name == blob).unwrap_or_else(|| {
                blobs.push(blob);
                features.push(None);
                blobs.len() - 1
            });
            Classes {
                labels,
                scores,
                label_name: description.predicted_feature_name.clone(),
                scores_name: description.predicted_probabilities_name.clone(),
            }
        });
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        let network = Network::compile(path, layers, &names, &blobs)?;
        Ok(Some(Self {
            network,
            preprocessing: preprocessing.clone(),
            exact_arrays: walk::is_exact(mapping),
            images_of_rank_4: image_mapping == NeuralNetworkImageShapeMapping::Rank4ImageMapping as i32,
            inputs,
            outputs,
            features,
            classes,
        }))
    }

    /// The input blobs of features, by name. What is optional and missing is left out.
    pub(crate) fn blobs(
        &self,
        features: &Features,
        notes: &mut Vec<&'static str>,
    ) -> Result<Vec<(String, Tensor)>, PredictError> {
        let mut blobs = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let tensor = match features.get(&input.name) {
                Some(value) => self.blob(input, value, notes)?,
                None => match &input.kind {
                    FeatureKind::Array { shape, default: Some(default), .. } => {
                        self.mapped(input, Tensor::from_elem(IxDyn(shape), *default), notes)?
                    }
                    _ if input.optional => continue,
                    kind => {
                        let expected = kind.to_string();
                        return Err(PredictError::MissingFeature { name: input.name.clone(), expected });
                    }
                },
            };
            blobs.push((input.name.clone(), tensor));
        }
        Ok(blobs)
    }

    fn blob(&self, input: &FeatureInfo, value: &Value, notes: &mut Vec<&'static str>) -> Result<Tensor, PredictError> {
        let wrong_type = |found: &str| PredictError::FeatureType {
            name: input.name.clone(),
            found: found.to_owned(),
            expected: input.kind.to_string(),
        };
        match (&input.kind, value) {
            (FeatureKind::Array { .. }, Value::Array(array)) => self.mapped(input, array.clone(), notes),
            (FeatureKind::Array { .. } | FeatureKind::Double | FeatureKind::Int64, Value::Double(value)) => {
                self.mapped(input, Tensor::from_elem(IxDyn(&[1]), *value as f32), notes)
            }
            (FeatureKind::Array { .. } | FeatureKind::Double | FeatureKind::Int64, Value::Int64(value)) => {
                self.mapped(input, Tensor::from_elem(IxDyn(&[1]), *value as f32), notes)
            }
            (FeatureKind::Image { order, .. }, Value::Image(image)) => {
                let size = [image.height(), image.width()];
                if !input.allows(&size) {
                    return Err(wrong_shape(input, &size));
                }
                let planes = image
                    .planes(*order)
                    .ok_or_else(|| wrong_type(if order.channels() == 1 { "in colour" } else { "in gray" }))?;
                self.image(input, planes, size, *order, notes)
            }
            // Pixels as an array, in the model's order of colours.
            (FeatureKind::Image { order, .. }, Value::Array(array)) => {
                let found = array.shape();
                match found {
                    [channels, size @ ..] if *channels == order.channels() && input.allows(size) && size.len() == 2 => {
                        self.image(input, array.iter().copied().collect(), [size[0], size[1]], *order, notes)
                    }
                    _ => Err(wrong_shape(input, found)),
                }
            }
            _ => Err(wrong_type(value.kind())),
        }
    }

    /// An array as the network sees it.
    fn mapped(
        &self,
        input: &FeatureInfo,
        array: Tensor,
        notes: &mut Vec<&'static str>,
    ) -> Result<Tensor, PredictError> {
        let found = array.shape().to_vec();
        let fail = || wrong_shape(input, &found);
        let declared = match &input.kind {
            FeatureKind::Array { shape, .. } => shape.len(),
            _ => 1,
        };
        if self.exact_arrays {
            return if input.allows(&found) && (1..=5).contains(&found.len()) { Ok(array) } else { Err(fail()) };
        }
        let declared = if declared == 0 { if found.len() == 1 { 1 } else { 3 } } else { declared };
        // The axes of the declared shape, and those in front of them.
        let front =
            if found.len() == 5 && declared != 3 { 2 } else { found.len().checked_sub(declared).ok_or_else(fail)? };
        let (outer, inner) = found.split_at(front);
        let own = if found.len() == 5 && declared == 1 && found[3..] == [1, 1] { &found[2..3] } else { inner };
        if !input.allows(own) && !input.allows(&found) {
            return Err(fail());
        }
        let mut shape = match *outer {
            [] => vec![1, 1],
            [batch] => {
                note(notes, BATCH);
                vec![1, batch]
            }
            [sequence, batch] => vec![sequence, batch],
            _ => return Err(fail()),
        };
        shape.extend(inner);
        match inner.len() {
            1 => shape.extend([1, 1]),
            3 => {}
            _ => return Err(fail()),
        }
        array.to_shape(IxDyn(&shape)).map(|array| array.into_owned().into_shared()).map_err(|_| fail())
    }

    fn image(
        &self,
        input: &FeatureInfo,
        mut planes: Vec<f32>,
        [height, width]: [usize; 2],
        order: ColorOrder,
        notes: &mut Vec<&'static str>,
    ) -> Result<Tensor, PredictError> {
        let channels = order.channels();
        let plane = (height * width).max(1);
        let own = |preprocessing: &&NeuralNetworkPreprocessing| {
            preprocessing.feature_name == input.name
                || (preprocessing.feature_name.is_empty() && self.inputs.len() == 1)
        };
        for (index, preprocessing) in self.preprocessing.iter().filter(own).enumerate() {
            if index > 0 {
                note(notes, PREPROCESSORS);
            }
            match &preprocessing.preprocessor {
                Some(Preprocessor::Scaler(scaler)) => {
                    let (red, green, blue) = (scaler.red_bias, scaler.green_bias, scaler.blue_bias);
                    let biases = match order {
                        ColorOrder::Gray => [scaler.gray_bias, 0.0, 0.0],
                        ColorOrder::Rgb => [red, green, blue],
                        ColorOrder::Bgr => [blue, green, red],
                    };
                    let scale = if scaler.channel_scale == 0.0 {
                        note(notes, CHANNEL_SCALE);
                        1.0
                    } else {
                        scaler.channel_scale
                    };
                    for (values, bias) in planes.chunks_mut(plane).zip(biases) {
                        values.iter_mut().for_each(|value| *value = scale * *value + bias);
                    }
                }
                Some(Preprocessor::MeanImage(mean)) => {
                    if mean.mean_image.len() != planes.len() {
                        let expected = format!("the size of the mean image, {} values,", mean.mean_image.len());
                        let found = vec![channels, height, width];
                        return Err(PredictError::FeatureShape { name: input.name.clone(), found, expected });
                    }
                    planes.iter_mut().zip(&mean.mean_image).for_each(|(value, mean)| *value -= mean);
                }
                None => {}
            }
        }
        let shape: &[usize] =
            if self.images_of_rank_4 { &[1, channels, height, width] } else { &[1, 1, channels, height, width] };
        Tensor::from_shape_vec(IxDyn(shape), planes).map_err(|_| wrong_shape(input, &[height, width]))
    }

    /// Runs the network.
    pub(crate) fn predict(
        &self,
        features: &Features,
        options: &Options,
        notes: &mut Vec<&'static str>,
        observer: &mut Observer<'_>,
    ) -> Result<Features, PredictError> {
        let blobs = self.blobs(features, notes)?;
        let results = self.network.run(blobs, options, notes, observer)?;
        self.features(&results, notes)
    }

    /// The features of the network's outputs.
    pub(crate) fn features(&self, results: &[Tensor], notes: &mut Vec<&'static str>) -> Result<Features, PredictError> {
        let mut features = Features::new();
        if let Some(classes) = &self.classes {
            let scores: Vec<f64> = results[classes.scores].iter().map(|&score| score.into()).collect();
            let labels = || PredictError::Labels {
                network: self.network.path().into(),
                labels: classes.labels.len(),
                scores: scores.len(),
            };
            let (label, dictionary) = classes.labels.classify(&scores).ok_or_else(labels)?;
            for (name, value) in [(&classes.label_name, label), (&classes.scores_name, dictionary)] {
                if !name.is_empty() {
                    features.insert(name.clone(), value);
                }
            }
        }
        for (result, feature) in results.iter().zip(&self.features) {
            let Some(feature) = feature else { continue };
            let value = match feature.kind {
                FeatureKind::Double => Value::Double(result.iter().next().copied().unwrap_or(f32::NAN).into()),
                FeatureKind::Int64 => Value::Int64(result.iter().next().copied().unwrap_or(0.0) as i64),
                FeatureKind::Image { .. } => {
                    note(notes, IMAGE_OUTPUT);
                    Value::Array(self.unmapped(result, notes))
                }
                _ => Value::Array(self.unmapped(result, notes)),
            };
            features.insert(feature.name.clone(), value);
        }
        Ok(features)
    }

    /// A blob without the axes that the mapping adds.
    fn unmapped(&self, blob: &Tensor, notes: &mut Vec<&'static str>) -> Tensor {
        if self.exact_arrays {
            return blob.clone();
        }
        let shape = match *blob.shape() {
            [1, 1, channels, 1, 1] => vec![channels],
            [1, 1, channels, height, width] => vec![channels, height, width],
            ref shape => {
                if shape.len() == 5 {
                    note(notes, RANK);
                }
                return blob.clone();
            }
        };
        blob.to_shape(IxDyn(&shape)).map_or_else(|_| blob.clone(), |blob| blob.into_owned().into_shared())
    }
}

fn wrong_shape(input: &FeatureInfo, found: &[usize]) -> PredictError {
    PredictError::FeatureShape { name: input.name.clone(), found: found.to_vec(), expected: input.kind.to_string() }
}

/// Remembers something uncertain, once.
pub(crate) fn note(notes: &mut Vec<&'static str>, what: &'static str) {
    if !notes.contains(&what) {
        notes.push(what);
    }
}

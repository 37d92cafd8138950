//! What models are run on: inputs by name, with a label where one is known.

#[cfg(feature = "images")]
mod images;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "npy")]
mod numpy;
mod synthetic;

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "images")]
pub use self::images::Fit;
use super::error::EvaluateError;
use crate::model::Model;
use crate::predict::{FeatureInfo, Features, Predictor};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Its name: a file's, or its number.
    pub name: String,
    /// The model's inputs.
    pub features: Features,
    /// What a classifier should say: a label, whole numbers in digits.
    pub label: Option<String>,
}

impl Sample {
    /// A sample without a label.
    pub fn new(name: impl Into<String>, features: Features) -> Self {
        Self { name: name.into(), features, label: None }
    }

    /// With a label.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }
}

/// Where samples come from. Any of them can be had at any time, by any thread.
trait Source: Send + Sync {
    fn len(&self) -> usize;

    /// The sample of an index below `len`.
    fn get(&self, index: usize) -> Result<Sample, EvaluateError>;
}

impl Source for Vec<Sample> {
    fn len(&self) -> usize {
        self.len()
    }

    fn get(&self, index: usize) -> Result<Sample, EvaluateError> {
        Ok(self[index].clone())
    }
}

/// Samples for a model. Files are read when their samples are needed, one at a time.
#[derive(Clone)]
pub struct Samples {
    source: Arc<dyn Source>,
    labels: Option<Arc<[String]>>,
    synthetic: bool,
}

impl fmt::Debug for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Samples").field("len", &self.len()).field("synthetic", &self.synthetic).finish_non_exhaustive()
    }
}

impl FromIterator<Sample> for Samples {
    fn from_iter<I: IntoIterator<Item = Sample>>(samples: I) -> Self {
        Self::of(samples.into_iter().collect::<Vec<_>>())
    }
}

impl FromIterator<Features> for Samples {
    /// They are named by their numbers, from 0.
    fn from_iter<I: IntoIterator<Item = Features>>(samples: I) -> Self {
        samples.into_iter().enumerate().map(|(index, features)| Sample::new(index.to_string(), features)).collect()
    }
}

impl Samples {
    fn of(source: impl Source + 'static) -> Self {
        Self { source: Arc::new(source), labels: None, synthetic: false }
    }

    /// `count` samples drawn for the inputs of a model: pictures of overlapping shapes of random sizes and values for
    /// images and arrays of three axes, from 0 to 255 or from 0 to 1; random tokens for what is looked up in an embedding;
    /// values evenly from 0 to 1 otherwise. Networks on sequences get 32 steps. The same seed gives the same samples.
    ///
    /// They tell how far two models are apart, not how well they do. Inputs that are optional are not given.
    ///
    /// # Errors
    ///
    /// [`EvaluateError::Inputs`] if an input is a string or a dictionary.
    pub fn synthetic(model: &Model, count: usize, seed: u64) -> Result<Self, EvaluateError> {
        let source = synthetic::Synthetic::new(model, Predictor::inputs_of(model), count, seed)?;
        Ok(Self { synthetic: true, ..Self::of(source) })
    }

    /// The JPEG and PNG files of a folder, in the order of their names, for the model's only image input. Files in folders
    /// inside it have that folder's name as their label.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read or has no images, or the model has other inputs than one image.
    #[cfg(feature = "images")]
    pub fn images(model: &Model, folder: impl AsRef<std::path::Path>, fit: Fit) -> Result<Self, EvaluateError> {
        Ok(Self::of(images::Images::new(&Predictor::inputs_of(model), folder.as_ref(), fit)?))
    }

    /// The arrays of an `.npz` file, by the names of the model's inputs; the first axis counts the samples. An array
    /// `label` or `labels` that is no input holds their labels, as whole numbers. An `.npy` file has the array of the
    /// model's only input.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, an array is missing or unknown, or they have not as many samples.
    #[cfg(feature = "npy")]
    pub fn numpy(model: &Model, path: impl AsRef<std::path::Path>) -> Result<Self, EvaluateError> {
        Ok(Self::of(numpy::Arrays::open(&Predictor::inputs_of(model), path.as_ref())?))
    }

    /// A file with a JSON object on each line: numbers, strings, nested arrays or objects by the names of the model's
    /// inputs; a `label` that is no input is the sample's label, a `name` its name.
    ///
    /// # Errors
    ///
    /// If the file cannot be read. What is wrong with a line is told when its sample is needed.
    #[cfg(feature = "json")]
    pub fn json_lines(model: &Model, path: impl AsRef<std::path::Path>) -> Result<Self, EvaluateError> {
        Ok(Self::of(json::Lines::open(&Predictor::inputs_of(model), path.as_ref())?))
    }

    /// With labels, one a sample; they take the place of those that the samples have.
    ///
    /// # Errors
    ///
    /// [`EvaluateError::Labels`] if there are more or fewer than samples.
    pub fn with_labels(mut self, labels: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, EvaluateError> {
        let labels: Arc<[String]> = labels.into_iter().map(Into::into).collect();
        if labels.len() != self.len() {
            return Err(EvaluateError::Labels { labels: labels.len(), samples: self.len() });
        }
        self.labels = Some(labels);
        Ok(self)
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether they were drawn, not given.
    pub fn is_synthetic(&self) -> bool {
        self.synthetic
    }

    /// The sample of an index; `None` beyond the last one.
    ///
    /// # Errors
    ///
    /// If its file cannot be read.
    pub fn get(&self, index: usize) -> Option<Result<Sample, EvaluateError>> {
        (index < self.len()).then(|| {
            let mut sample = self.source.get(index)?;
            if let Some(labels) = &self.labels {
                sample.label = Some(labels[index].clone());
            }
            Ok(sample)
        })
    }

    /// All samples, in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Sample, EvaluateError>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// The inputs in words.
fn described(inputs: &[FeatureInfo]) -> String {
    let input = |input: &FeatureInfo| format!("\"{}\" ({})", input.name, input.kind);
    inputs.iter().map(input).collect::<Vec<_>>().join(", ")
}

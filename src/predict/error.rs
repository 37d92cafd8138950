//! Why a model cannot be run, and where.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::tensor::LayerError;
use crate::error::{Place, WeightError};

/// A layer of a network, as it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its number in its model, inner layers counted after the layer they are in.
    pub index: usize,
    /// The network's path: `model`, `model/pipeline[1]`, `model/cond/ifBranch`.
    pub network: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its type, under its name in the format.
    pub layer_type: &'static str,
    /// The blobs it reads.
    pub inputs: Vec<Arc<str>>,
    /// The blobs it writes.
    pub outputs: Vec<Arc<str>>,
}

impl fmt::Display for LayerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.network, self.name, self.layer_type)
    }
}

/// Why a model cannot be run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PredictError {
    /// A layer cannot be computed.
    #[error("{layer}: {cause}")]
    Layer {
        /// The layer.
        layer: Box<LayerInfo>,
        /// Why.
        cause: LayerError,
    },
    /// A weight cannot be read.
    #[error("{place}: {cause}")]
    Weight {
        /// The weight.
        place: Box<Place>,
        /// What is wrong with it.
        cause: WeightError,
    },
    /// A layer reads what nothing has written.
    #[error("{layer}: nothing has written its input \"{blob}\"")]
    MissingBlob {
        /// The layer.
        layer: Box<LayerInfo>,
        /// The blob.
        blob: Arc<str>,
    },
    /// The network does not compute what the model's description promises.
    #[error("{network} has the output \"{name}\", which no layer writes")]
    MissingOutput {
        /// The network's path.
        network: Arc<str>,
        /// The output.
        name: String,
    },
    /// A layer of the caller's failed.
    #[error("{layer}: {cause}")]
    CustomLayer {
        /// The layer.
        layer: Box<LayerInfo>,
        /// What it said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There are no weights or parameters where the format demands them.
    #[error("{layer}: {what} is missing")]
    Incomplete {
        /// The layer.
        layer: Box<LayerInfo>,
        /// What is missing.
        what: &'static str,
    },
    /// An input is not given, and has no default.
    #[error("the input \"{name}\" is missing, {expected} expected")]
    MissingFeature {
        /// The input.
        name: String,
        /// What it should be, in words.
        expected: String,
    },
    /// Something is given that is no input.
    #[error("there is no input \"{name}\"; the inputs are {}", known.join(", "))]
    UnknownFeature {
        /// What was given.
        name: String,
        /// The inputs.
        known: Vec<String>,
    },
    /// An input is of another type than its description says.
    #[error("the input \"{name}\" is {found}, {expected} expected")]
    FeatureType {
        /// The input.
        name: String,
        /// What was given, in words.
        found: String,
        /// What it should be, in words.
        expected: String,
    },
    /// An array or image has a size that the model does not take.
    #[error("the input \"{name}\" has the shape {found:?}, {expected} expected")]
    FeatureShape {
        /// The input.
        name: String,
        /// Its shape; height and width of an image.
        found: Vec<usize>,
        /// What the model takes, in words.
        expected: String,
    },
    /// The bytes of an image do not fit its size.
    #[error("an image of {width} x {height} has {expected} bytes, not {found}")]
    ImageBytes {
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
        /// How many bytes there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A file could not be read as an image.
    #[cfg(feature = "images")]
    #[error("{path}: {cause}", path = path.display())]
    ImageFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        cause: image::ImageError,
    },
    /// A model, or a member of a pipeline, is of a kind that cannot be run.
    #[error("{path} is a model of type {kind}, which cannot be run here; a function can stand in for it")]
    UnsupportedModel {
        /// The model's path.
        path: String,
        /// Its type, under its name in the format.
        kind: &'static str,
    },
    /// A model that is no network has parameters that make no sense.
    #[error("{path} ({kind}): {what}")]
    Member {
        /// The model's path.
        path: String,
        /// Its type, under its name in the format.
        kind: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The caller's function for a model failed.
    #[error("{path}: {cause}")]
    StandIn {
        /// The model's path.
        path: String,
        /// What it said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The loops of a network take too long.
    #[error("{network}: {limit} layers have run, and the network has not ended; see Predictor::with_step_limit")]
    StepLimit {
        /// The network's path.
        network: Arc<str>,
        /// The most layers that may run in one prediction.
        limit: u64,
    },
    /// A classifier has another number of labels than of scores.
    #[error("{network} has {labels} labels for {scores} scores")]
    Labels {
        /// The network's path.
        network: Arc<str>,
        /// The number of labels.
        labels: usize,
        /// The number of scores.
        scores: usize,
    },
}

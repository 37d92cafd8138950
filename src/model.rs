//! A Core ML model: read, looked at, written.

use std::fmt;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use crate::error::{Error, NotAModel};
use crate::proto;
use crate::proto::model::Type;
use crate::save::{self, SaveOptions};
use crate::walk;

/// A Core ML model.
///
/// Its weights share memory with the bytes it was decoded from, so that cloning costs little and copies no weight.
#[derive(Clone, PartialEq)]
pub struct Model {
    proto: proto::Model,
}

impl Model {
    /// Reads a `.mlmodel` file.
    ///
    /// To map the file instead of reading it, pass the map to [`from_bytes`](Self::from_bytes) with
    /// `Bytes::from_owner`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::NotAModelFile`] if it is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let io = |source| Error::Io { path: path.to_owned(), source };
        if fs::metadata(path).map_err(io)?.is_dir() {
            let what = match path.extension().and_then(|extension| extension.to_str()) {
                Some("mlpackage") => NotAModel::Package,
                Some("mlmodelc") => NotAModel::Compiled,
                _ => NotAModel::Folder,
            };
            return Err(Error::NotAModelFile { path: path.to_owned(), what });
        }
        let bytes = fs::read(path).map_err(io)?;
        Self::decode(bytes.into()).map_err(|what| Error::NotAModelFile { path: path.to_owned(), what })
    }

    /// Decodes the bytes of a `.mlmodel` file. Weights are not copied: they share `bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::NotAModel`] if the bytes are something else.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, Error> {
        Self::decode(bytes.into()).map_err(Error::NotAModel)
    }

    fn decode(bytes: Bytes) -> Result<Self, NotAModel> {
        if bytes.is_empty() {
            return Err(NotAModel::Empty);
        }
        let start = bytes.slice(..bytes.len().min(TEXT_PROBE));
        let proto = proto::Model::decode(bytes).map_err(|error| text(&start).unwrap_or(NotAModel::Malformed(error)))?;
        if proto.r#type.is_none() {
            return Err(text(&start).unwrap_or(NotAModel::NoType { version: proto.specification_version }));
        }
        Ok(Self { proto })
    }

    /// A model from its protobuf message.
    pub fn from_proto(proto: proto::Model) -> Self {
        Self { proto }
    }

    /// The protobuf message.
    pub fn proto(&self) -> &proto::Model {
        &self.proto
    }

    /// The protobuf message, to be changed.
    pub fn proto_mut(&mut self) -> &mut proto::Model {
        &mut self.proto
    }

    /// The protobuf message alone.
    pub fn into_proto(self) -> proto::Model {
        self.proto
    }

    /// The bytes of the `.mlmodel` file. The same model always gives the same bytes: maps are sorted by key.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    /// Writes a `.mlmodel` file, see [`save_with`](Self::save_with).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written; an old file is then as it was.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.save_with(path, &SaveOptions::default())
    }

    /// Writes a `.mlmodel` file: a temporary file in the same folder, renamed over the old one when it is complete.
    /// A failed or killed save leaves the old file as it was. The old file's permissions are kept; if `path` is a
    /// symbolic link, the file it points to is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written.
    pub fn save_with(&self, path: impl AsRef<Path>, options: &SaveOptions) -> Result<(), Error> {
        save::save(&self.proto, path.as_ref(), options)
    }

    /// The model's type, under its name in the format: `neuralNetworkClassifier`, `pipeline`, `mlProgram`.
    pub fn kind(&self) -> &'static str {
        kind(&self.proto)
    }

    /// Fails unless there is a network, in the model or in a pipeline's member.
    pub(crate) fn require_network(&self) -> Result<(), Error> {
        let mut found = false;
        walk::each_model(&self.proto, walk::ROOT, &mut |_, model| found |= walk::network(model).is_some());
        if found { Ok(()) } else { Err(Error::NoNetwork { kind: self.kind() }) }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("kind", &self.kind())
            .field("specification_version", &self.proto.specification_version)
            .finish_non_exhaustive()
    }
}

/// How many bytes at the start tell text from protobuf.
const TEXT_PROBE: usize = 64;

/// Whether a file that is no model is text, to say so.
fn text(start: &[u8]) -> Option<NotAModel> {
    let readable = start.iter().all(|&byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
    let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
    readable.then(|| NotAModel::Text { start: String::from_utf8_lossy(line).trim_end().to_owned() })
}

/// The name of a model's type in the format.
pub(crate) fn kind(model: &proto::Model) -> &'static str {
    match &model.r#type {
        None => "none",
        Some(Type::PipelineClassifier(_)) => "pipelineClassifier",
        Some(Type::PipelineRegressor(_)) => "pipelineRegressor",
        Some(Type::Pipeline(_)) => "pipeline",
        Some(Type::GlmRegressor(_)) => "glmRegressor",
        Some(Type::SupportVectorRegressor(_)) => "supportVectorRegressor",
        Some(Type::TreeEnsembleRegressor(_)) => "treeEnsembleRegressor",
        Some(Type::NeuralNetworkRegressor(_)) => "neuralNetworkRegressor",
        Some(Type::BayesianProbitRegressor(_)) => "bayesianProbitRegressor",
        Some(Type::GlmClassifier(_)) => "glmClassifier",
        Some(Type::SupportVectorClassifier(_)) => "supportVectorClassifier",
        Some(Type::TreeEnsembleClassifier(_)) => "treeEnsembleClassifier",
        Some(Type::NeuralNetworkClassifier(_)) => "neuralNetworkClassifier",
        Some(Type::KNearestNeighborsClassifier(_)) => "kNearestNeighborsClassifier",
        Some(Type::NeuralNetwork(_)) => "neuralNetwork",
        Some(Type::ItemSimilarityRecommender(_)) => "itemSimilarityRecommender",
        Some(Type::MlProgram(_)) => "mlProgram",
        Some(Type::CustomModel(_)) => "customModel",
        Some(Type::LinkedModel(_)) => "linkedModel",
        Some(Type::ClassConfidenceThresholding(_)) => "classConfidenceThresholding",
        Some(Type::OneHotEncoder(_)) => "oneHotEncoder",
        Some(Type::Imputer(_)) => "imputer",
        Some(Type::FeatureVectorizer(_)) => "featureVectorizer",
        Some(Type::DictVectorizer(_)) => "dictVectorizer",
        Some(Type::Scaler(_)) => "scaler",
        Some(Type::CategoricalMapping(_)) => "categoricalMapping",
        Some(Type::Normalizer(_)) => "normalizer",
        Some(Type::ArrayFeatureExtractor(_)) => "arrayFeatureExtractor",
        Some(Type::NonMaximumSuppression(_)) => "nonMaximumSuppression",
        Some(Type::Identity(_)) => "identity",
        Some(Type::TextClassifier(_)) => "textClassifier",
        Some(Type::WordTagger(_)) => "wordTagger",
        Some(Type::VisionFeaturePrint(_)) => "visionFeaturePrint",
        Some(Type::SoundAnalysisPreprocessing(_)) => "soundAnalysisPreprocessing",
        Some(Type::Gazetteer(_)) => "gazetteer",
        Some(Type::WordEmbedding(_)) => "wordEmbedding",
        Some(Type::AudioFeaturePrint(_)) => "audioFeaturePrint",
        Some(Type::SerializedModel(_)) => "serializedModel",
    }
}

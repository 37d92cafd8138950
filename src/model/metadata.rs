//! What a model says of itself: its author and licence, and the labels of its classes.

use std::collections::BTreeMap;

use super::{Model, walk};
use crate::format::proto::model::Type;
use crate::format::proto::neural_network_classifier::ClassLabels as NetworkLabels;
use crate::format::proto::non_maximum_suppression::ClassLabels as SuppressionLabels;
use crate::format::proto::{self, Int64Vector, StringVector};

/// What a model says of itself, as Xcode shows it. Empty texts are not stored.
///
/// ```
/// # fn main() -> Result<(), coreml_quant::Error> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/digits/digits.mlmodel");
/// let mut model = coreml_quant::Model::open(path)?;
/// let mut metadata = model.metadata();
/// metadata.license = "MIT".to_owned();
/// metadata.user_defined.insert("com.example.trained".to_owned(), "2024-05-01".to_owned());
/// model.set_metadata(metadata);
/// assert_eq!(model.metadata().license, "MIT");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Metadata {
    /// What it is for.
    pub description: String,
    /// Who made it.
    pub author: String,
    /// Under which terms it may be used.
    pub license: String,
    /// Its version, in the author's own scheme.
    pub version: String,
    /// Anything else, by keys of the author's own.
    pub user_defined: BTreeMap<String, String>,
}

/// The labels of a classifier's classes, in the order of its outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(untagged))]
#[non_exhaustive]
pub enum ClassLabels {
    /// Numbers.
    Int64s(Vec<i64>),
    /// Names.
    Strings(Vec<String>),
}

impl ClassLabels {
    /// Number of classes.
    pub fn len(&self) -> usize {
        match self {
            Self::Int64s(labels) => labels.len(),
            Self::Strings(labels) => labels.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Model {
    /// What the model says of itself.
    pub fn metadata(&self) -> Metadata {
        let metadata = self.proto.description.as_ref().and_then(|description| description.metadata.as_ref());
        metadata.map_or_else(Metadata::default, |metadata| Metadata {
            description: metadata.short_description.clone(),
            author: metadata.author.clone(),
            license: metadata.license.clone(),
            version: metadata.version_string.clone(),
            user_defined: metadata.user_defined.clone(),
        })
    }

    /// Replaces what the model says of itself.
    pub fn set_metadata(&mut self, metadata: Metadata) {
        let Metadata { description, author, license, version, user_defined } = metadata;
        self.proto.description.get_or_insert_default().metadata = Some(proto::Metadata {
            short_description: description,
            author,
            license,
            version_string: version,
            user_defined,
        });
    }

    /// The class labels of a neural-network classifier, or of the first one in a pipeline; of the detector's
    /// non-maximum suppression where no network has any. `None` if there are none.
    pub fn class_labels(&self) -> Option<ClassLabels> {
        let (mut of_network, mut of_suppression) = (None, None);
        walk::each_model(&self.proto, walk::ROOT, &mut |_, model| match &model.r#type {
            Some(Type::NeuralNetworkClassifier(network)) if of_network.is_none() => {
                of_network = network.class_labels.as_ref().map(|labels| match labels {
                    NetworkLabels::StringClassLabels(labels) => ClassLabels::Strings(labels.vector.clone()),
                    NetworkLabels::Int64ClassLabels(labels) => ClassLabels::Int64s(labels.vector.clone()),
                });
            }
            Some(Type::NonMaximumSuppression(suppression)) if of_suppression.is_none() => {
                of_suppression = suppression.class_labels.as_ref().map(|labels| match labels {
                    SuppressionLabels::StringClassLabels(labels) => ClassLabels::Strings(labels.vector.clone()),
                    SuppressionLabels::Int64ClassLabels(labels) => ClassLabels::Int64s(labels.vector.clone()),
                });
            }
            _ => {}
        });
        of_network.or(of_suppression)
    }

    /// Replaces the class labels where [`class_labels`](Self::class_labels) finds them. Returns whether there was a place
    /// for them; their number is not held against the network's outputs.
    pub fn set_class_labels(&mut self, labels: ClassLabels) -> bool {
        let mut labels = Some(labels);
        let mut found = false;
        walk::change_models(&mut self.proto, &mut |model| {
            if let Some(Type::NeuralNetworkClassifier(network)) = &mut model.r#type
                && network.class_labels.is_some()
                && let Some(labels) = labels.take()
            {
                found = true;
                network.class_labels = Some(match labels {
                    ClassLabels::Strings(vector) => NetworkLabels::StringClassLabels(StringVector { vector }),
                    ClassLabels::Int64s(vector) => NetworkLabels::Int64ClassLabels(Int64Vector { vector }),
                });
            }
        });
        walk::change_models(&mut self.proto, &mut |model| {
            if let Some(Type::NonMaximumSuppression(suppression)) = &mut model.r#type
                && suppression.class_labels.is_some()
                && let Some(labels) = labels.take()
            {
                found = true;
                suppression.class_labels = Some(match labels {
                    ClassLabels::Strings(vector) => SuppressionLabels::StringClassLabels(StringVector { vector }),
                    ClassLabels::Int64s(vector) => SuppressionLabels::Int64ClassLabels(Int64Vector { vector }),
                });
            }
        });
        found
    }

    /// The model and the members of its pipelines, outer ones first, by their paths: `model`, `model/pipeline[1]`.
    pub fn members(&self) -> Vec<(String, &proto::Model)> {
        let mut members = Vec::new();
        walk::each_model(&self.proto, walk::ROOT, &mut |path, model| members.push((path.to_owned(), model)));
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::proto::{NeuralNetworkClassifier, NonMaximumSuppression, Pipeline, PipelineClassifier};

    fn of(r#type: Type) -> proto::Model {
        proto::Model { r#type: Some(r#type), ..Default::default() }
    }

    fn pipeline(models: Vec<proto::Model>) -> Model {
        let pipeline = Some(Pipeline { models, ..Default::default() });
        Model::from_proto(of(Type::PipelineClassifier(PipelineClassifier { pipeline })))
    }

    #[test]
    fn labels_of_a_network_come_before_those_of_the_suppression() {
        let vector = vec!["a".to_owned(), "b".to_owned()];
        let suppression = || {
            let class_labels = Some(SuppressionLabels::Int64ClassLabels(Int64Vector { vector: vec![7] }));
            of(Type::NonMaximumSuppression(NonMaximumSuppression { class_labels, ..Default::default() }))
        };
        let class_labels = Some(NetworkLabels::StringClassLabels(StringVector { vector: vector.clone() }));
        let network = of(Type::NeuralNetworkClassifier(NeuralNetworkClassifier { class_labels, ..Default::default() }));
        let mut both = pipeline(vec![suppression(), network]);
        assert_eq!(both.class_labels(), Some(ClassLabels::Strings(vector)));
        assert!(both.set_class_labels(ClassLabels::Int64s(vec![1, 2])));
        assert_eq!(both.class_labels(), Some(ClassLabels::Int64s(vec![1, 2])));

        let mut one = pipeline(vec![suppression()]);
        assert_eq!(one.class_labels(), Some(ClassLabels::Int64s(vec![7])));
        assert!(one.set_class_labels(ClassLabels::Strings(vec!["x".to_owned()])));
        assert_eq!(one.class_labels(), Some(ClassLabels::Strings(vec!["x".to_owned()])));

        let mut none = pipeline(Vec::new());
        assert_eq!(none.class_labels(), None);
        assert!(!none.set_class_labels(ClassLabels::Int64s(Vec::new())));
        assert_eq!(none.members().len(), 1);
        assert_eq!(both.members()[2].0, "model/pipeline[1]");
    }

    #[test]
    fn metadata_is_written_and_read() {
        let mut model = Model::from_proto(proto::Model::default());
        assert_eq!(model.metadata(), Metadata::default());
        let mut metadata = Metadata { author: "A".to_owned(), version: "2".to_owned(), ..Metadata::default() };
        metadata.user_defined.insert("key".to_owned(), "value".to_owned());
        model.set_metadata(metadata.clone());
        assert_eq!(model.metadata(), metadata);
    }
}

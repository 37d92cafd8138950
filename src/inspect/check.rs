//! Whether a model's weights obey Core ML's rules.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::error::{Place, WeightError};
use crate::format::form::{Nbits, StoredForm};
use crate::format::proto::{self, NeuralNetworkLayer, WeightParams};
use crate::model::{Model, walk};
use crate::network::rules::{self, Disagreement, Member, Refusal, Rule};
use crate::network::shape::Shape;
use crate::network::weights::{self, LayerWeights};

/// Holds the weights of a model, whoever wrote it, against Core ML's rules: the forms they are stored in, what each layer
/// takes, what has to agree, updatable layers, int8 activations, and the specificationVersion of every level.
///
/// No finding means that nothing about the weights keeps Core ML from loading the model. Where Core ML's own validator is
/// lenient but the format's documentation is not, this is strict: a specificationVersion that is too low and nonzero
/// padding bits are findings. Only weights that Core ML reads are looked at, so the bias of a layer without `hasBias` is
/// not. The weights of custom layers and activations are their own business, except that the two of a parametric softplus
/// must be stored alike.
///
/// What [`quantize_weights`](crate::quantize_weights) returns for a model without findings has none either.
///
/// ```
/// use coreml_quant::proto::{InnerProductLayerParams, NeuralNetwork, NeuralNetworkLayer, WeightParams};
/// use coreml_quant::proto::{model::Type, neural_network_layer::Layer};
/// use coreml_quant::{Model, Violation, WeightError, check, proto};
///
/// let dense = InnerProductLayerParams {
///     input_channels: 3,
///     output_channels: 2,
///     weights: Some(WeightParams::from_floats(&[0.5; 5])),
///     ..Default::default()
/// };
/// let layer = NeuralNetworkLayer { name: "dense".into(), layer: Some(Layer::InnerProduct(dense)), ..Default::default() };
/// let network = NeuralNetwork { layers: vec![layer], ..Default::default() };
/// let model = proto::Model {
///     specification_version: 1,
///     r#type: Some(Type::NeuralNetwork(network)),
///     ..Default::default()
/// };
///
/// let findings = check(&Model::from_proto(model));
/// assert!(matches!(
///     findings[0].violation,
///     Violation::Weight(WeightError::Length { field: "floatValue", found: 5, expected: 6, .. })
/// ));
/// assert_eq!(
///     findings[0].to_string(),
///     "model: innerProduct layer \"dense\", weights: floatValue has 5 values, 6 are expected"
/// );
/// ```
pub fn check(model: &Model) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_model(model.proto(), walk::ROOT, &mut 0, &mut findings);
    findings
}

/// A rule that a model breaks, and where.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finding {
    /// What the finding is about.
    pub subject: Subject,
    /// What is wrong with it.
    pub violation: Violation,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.violation)
    }
}

/// What a [`Finding`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// A whole model, or a member of a pipeline.
    Model {
        /// Its path: `model`, `model/pipeline[1]`.
        path: String,
    },
    /// A layer.
    Layer {
        /// The network's path: `model`, `model/pipeline[1]`, `model/cond/ifBranch`.
        network: Arc<str>,
        /// The layer's name.
        layer: Arc<str>,
        /// The layer's type, under its name in the format.
        layer_type: &'static str,
    },
    /// One weight.
    Weight(Place),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model { path } => f.write_str(path),
            Self::Layer { network, layer, layer_type } => write!(f, "{network}: {layer_type} layer \"{layer}\""),
            Self::Weight(place) => place.fmt(f),
        }
    }
}

/// A rule of Core ML's that is broken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Violation {
    /// A weight is missing, or not stored as the sizes of its layer ask for.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The bits behind the last code of `rawValue` are not zero.
    #[error("the last byte of rawValue is {last:#04x}, its {padding} lowest bits are padding and have to be zero")]
    Padding {
        /// The last byte.
        last: u8,
        /// How many of its bits are padding.
        padding: u32,
    },
    /// The layer takes another form only.
    #[error("stored as {found}, but the layer takes only {allowed}")]
    Form {
        /// The form it is stored in.
        found: StoredForm,
        /// The forms that are allowed.
        allowed: &'static str,
    },
    /// `int8RawValue` in a layer that does not quantize its activations.
    #[error("int8RawValue is set, but the layer has no int8DynamicQuantize")]
    Int8Unexpected,
    /// A layer that quantizes its activations needs an `int8RawValue`.
    #[error("stored as {found}, but int8DynamicQuantize asks for int8RawValue")]
    Int8Expected {
        /// The form it is stored in.
        found: StoredForm,
    },
    /// A layer that quantizes its activations has a bias.
    #[error("int8DynamicQuantize and hasBias exclude each other")]
    Int8Bias,
    /// A layer that quantizes its activations, in a network that maps arrays to five dimensions.
    #[error("int8DynamicQuantize needs the exact array mapping (arrayInputShapeMapping)")]
    Int8Rank5Mapping,
    /// Some weights of the layer are float16, others float32.
    #[error("{float16} is float16 and {float32} is float32, but they have to agree")]
    MixedFloats {
        /// The field of the first float16 weight.
        float16: String,
        /// The field of the first float32 weight.
        float32: String,
    },
    /// Two weights of the layer that have to be stored alike are not.
    #[error("{first} is {first_form} and {second} is {second_form}, but they have to agree")]
    MixedForms {
        /// A field.
        first: String,
        /// Its form.
        first_form: StoredForm,
        /// Another field.
        second: String,
        /// Its form.
        second_form: StoredForm,
    },
    /// A layer that is marked updatable, of a type that cannot be trained on the device.
    #[error("isUpdatable is set, but layers of this type cannot be updated")]
    NotUpdatable,
    /// A weight of an updatable layer is quantized.
    #[error("stored as {found}, but the layer is updatable and takes only float32 or float16")]
    UpdatableQuantized {
        /// The form it is stored in.
        found: StoredForm,
    },
    /// A weight of an updatable layer is not marked updatable.
    #[error("the layer is updatable, but the weight's isUpdatable is not set")]
    UpdatableUnmarked,
    /// The specificationVersion is lower than the weights of the model, or of a pipeline's member, need.
    #[error("specificationVersion is {found}, its weights need {needed}")]
    Version {
        /// The version that is stated.
        found: i32,
        /// The lowest version that would do.
        needed: i32,
    },
}

/// Returns the specificationVersion that the model needs. `index` is that of the model's first layer.
fn check_model(model: &proto::Model, path: &str, index: &mut usize, findings: &mut Vec<Finding>) -> i32 {
    let first = findings.len();
    let mut needed = 0;
    walk::each_own_layer(model, path, index, &mut |at, layer| {
        needed = needed.max(check_layer(&weights::of(at, layer), findings));
    });
    for (path, member) in walk::members(model, path) {
        needed = needed.max(check_model(member, &path, index, findings));
    }
    let found = model.specification_version;
    if found < needed {
        let subject = Subject::Model { path: path.to_owned() };
        findings.insert(first, Finding { subject, violation: Violation::Version { found, needed } });
    }
    needed
}

/// Returns the specificationVersion that the layer needs.
fn check_layer(weights: &LayerWeights<'_, '_>, findings: &mut Vec<Finding>) -> i32 {
    let LayerWeights { at, layer, layer_type: Some(layer_type), .. } = *weights else { return 0 };
    let int8 = rules::int8_dynamic(layer).filter(|int8| int8.enabled);
    let mut of_layer = Vec::new();
    if layer.is_updatable && !rules::can_be_updatable(layer) {
        of_layer.push(Violation::NotUpdatable);
    }
    if let Some(int8) = int8 {
        if int8.has_bias {
            of_layer.push(Violation::Int8Bias);
        }
        if !at.exact_arrays {
            of_layer.push(Violation::Int8Rank5Mapping);
        }
    }

    let mut of_weights = Vec::new();
    let mut stored = Vec::new();
    for weight in &weights.weights {
        let mut found = Vec::new();
        match weight.stored() {
            Ok((params, shape, form)) => {
                check_weight(layer, weight.rule, int8.is_some(), params, shape, form, &mut found);
                stored.push((&*weight.field, Member::new(form, shape)));
            }
            Err(error) => found.push(error.into()),
        }
        let subject = || Subject::Weight(weights.place(weight));
        of_weights.extend(found.into_iter().map(|violation| Finding { subject: subject(), violation }));
    }
    of_layer.extend(disagreement(layer, &stored));

    findings.extend(of_layer.into_iter().map(|violation| {
        let (network, layer) = (Arc::clone(at.network), layer.name.as_str().into());
        Finding { subject: Subject::Layer { network, layer, layer_type }, violation }
    }));
    findings.append(&mut of_weights);
    let versions = stored.iter().map(|(_, member)| member.form.specification_version());
    versions.chain(int8.map(|_| StoredForm::Int8.specification_version())).max().unwrap_or(0)
}

/// The rules about one weight whose form is valid in itself.
fn check_weight(
    layer: &NeuralNetworkLayer,
    rule: Rule,
    int8: bool,
    params: &WeightParams,
    shape: &Shape,
    found: StoredForm,
    violations: &mut Vec<Violation>,
) {
    if rule == Rule::LeaveAlone {
        return;
    }
    if let StoredForm::Linear { nbits, .. } | StoredForm::LookupTable { nbits } = found {
        violations.extend(padding(&params.raw_value, nbits, shape.units));
    }
    match rule.permits(found) {
        Err(Refusal::Float32Only) => violations.push(Violation::Form { found, allowed: "float32" }),
        Err(Refusal::FloatOnly) => violations.push(Violation::Form { found, allowed: "float32 or float16" }),
        _ if rule == Rule::AnyOrInt8 && int8 => {
            violations.extend((found != StoredForm::Int8).then_some(Violation::Int8Expected { found }));
        }
        _ if found == StoredForm::Int8 => violations.push(Violation::Int8Unexpected),
        _ => {}
    }
    if layer.is_updatable {
        if found.is_quantized() {
            violations.push(Violation::UpdatableQuantized { found });
        }
        if !params.is_updatable {
            violations.push(Violation::UpdatableUnmarked);
        }
    }
}

/// Whether there is anything behind the last code.
fn padding(packed: &[u8], nbits: Nbits, units: usize) -> Option<Violation> {
    // Eight codes fill whole bytes, so only the codes behind the last eight count.
    let used = (units % 8) as u32 * u32::from(nbits) % 8;
    let padding = (8 - used) % 8;
    let last = *packed.last()?;
    (last & !(u8::MAX << padding) != 0).then_some(Violation::Padding { last, padding })
}

/// Two weights of a layer that do not go together.
fn disagreement(layer: &NeuralNetworkLayer, stored: &[(&str, Member)]) -> Option<Violation> {
    let members: Vec<Member> = stored.iter().map(|(_, member)| *member).collect();
    let field = |index: usize| stored[index].0.to_owned();
    Some(match rules::disagreement(layer, &members)? {
        Disagreement::Floats { float16, float32 } => {
            Violation::MixedFloats { float16: field(float16), float32: field(float32) }
        }
        Disagreement::Forms(first, second) => Violation::MixedForms {
            first: field(first),
            first_form: members[first].form,
            second: field(second),
            second_form: members[second].form,
        },
    })
}

//! Core ML's rules about stored weights: what a place permits, and what the weights of a layer have to agree in.
//!
//! Planning, checking and folding ask here.

use super::shape::Shape;
use crate::format::form::StoredForm;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{BatchedMatMulLayerParams, InnerProductLayerParams, NeuralNetworkLayer};

/// What may be stored in a weight's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// float32, float16 or 1 to 8 bits.
    Any,
    /// As `Any`, and 8 bits for dynamically quantized activations.
    AnyOrInt8,
    /// float32 or float16.
    FloatOnly,
    /// float32; Core ML rejects everything else.
    Float32Only,
    /// The layer's own business: custom layers, and activations, where Core ML checks nothing.
    LeaveAlone,
}

/// Why a form is not allowed in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Only float32 is.
    Float32Only,
    /// Only float32 and float16 are.
    FloatOnly,
    /// int8 needs a matrix of a layer that can quantize its activations.
    NotAMatrix,
    /// A layer that quantizes its activations has no bias.
    LayerHasBias,
    /// A layer that quantizes its activations needs arrays to keep their own shape.
    Rank5Mapping,
}

impl Rule {
    /// Fails if a form is not allowed in the place, whatever the layer's other weights are.
    pub(crate) fn permits(self, form: StoredForm) -> Result<(), Refusal> {
        match self {
            Self::Float32Only if form != StoredForm::Float32 => Err(Refusal::Float32Only),
            Self::FloatOnly if form.is_quantized() => Err(Refusal::FloatOnly),
            Self::AnyOrInt8 | Self::LeaveAlone => Ok(()),
            _ if form == StoredForm::Int8 => Err(Refusal::NotAMatrix),
            _ => Ok(()),
        }
    }
}

/// Fails if a layer cannot quantize its activations at run time. `exact_arrays`: whether arrays keep their own shape in
/// the network.
pub(crate) fn permits_int8(layer: &NeuralNetworkLayer, exact_arrays: bool) -> Result<(), Refusal> {
    let int8 = int8_dynamic(layer).ok_or(Refusal::NotAMatrix)?;
    if int8.has_bias {
        return Err(Refusal::LayerHasBias);
    }
    if !exact_arrays {
        return Err(Refusal::Rank5Mapping);
    }
    Ok(())
}

/// A stored weight of a layer, as far as others have to agree with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// The form it is stored in.
    pub form: StoredForm,
    /// Whether it has more than one dimension.
    pub is_matrix: bool,
}

impl Member {
    pub(crate) fn new(form: StoredForm, shape: &Shape) -> Self {
        Self { form, is_matrix: shape.dims.len() > 1 }
    }
}

/// Two weights of a layer that do not go together, by their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disagreement {
    /// One is float16, the other float32.
    Floats { float16: usize, float32: usize },
    /// They have to be stored alike and are not.
    Forms(usize, usize),
}

/// What the weights of a layer, stored like this, do not agree in. Most must not be float16 in part and float32 in part;
/// quantized ones are free. A `simpleRecurrent` layer does not care once a matrix is quantized; the two weights of an
/// activation have to be of one kind.
pub(crate) fn disagreement(layer: &NeuralNetworkLayer, weights: &[Member]) -> Option<Disagreement> {
    let position = |form| weights.iter().position(|weight| weight.form == form);
    match &layer.layer {
        Some(Layer::Custom(_)) => None,
        Some(Layer::Activation(_)) => {
            let kind = |form: StoredForm| if form.is_quantized() { None } else { Some(form) };
            let first = weights.first()?;
            let second = weights.iter().position(|weight| kind(weight.form) != kind(first.form))?;
            Some(Disagreement::Forms(0, second))
        }
        Some(Layer::SimpleRecurrent(_))
            if weights.iter().any(|weight| weight.is_matrix && weight.form.is_quantized()) =>
        {
            None
        }
        _ => {
            let (float16, float32) = (position(StoredForm::Float16)?, position(StoredForm::Float32)?);
            Some(Disagreement::Floats { float16, float32 })
        }
    }
}

/// Whether layers of this type can be trained on the device.
pub(crate) fn can_be_updatable(layer: &NeuralNetworkLayer) -> bool {
    matches!(&layer.layer, Some(Layer::Convolution(_) | Layer::InnerProduct(_) | Layer::UniDirectionalLstm(_)))
}

/// Whether a layer quantizes its activations to 8 bits at run time, and whether it has a bias; `None` for layers that
/// cannot.
pub(crate) fn int8_dynamic(layer: &NeuralNetworkLayer) -> Option<Int8Dynamic> {
    match &layer.layer {
        Some(Layer::InnerProduct(InnerProductLayerParams { int8_dynamic_quantize, has_bias, .. }))
        | Some(Layer::BatchedMatmul(BatchedMatMulLayerParams { int8_dynamic_quantize, has_bias, .. }))
            if layer.input.len() <= 1 =>
        {
            Some(Int8Dynamic { enabled: *int8_dynamic_quantize, has_bias: *has_bias })
        }
        _ => None,
    }
}

/// What [`int8_dynamic`] tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8Dynamic {
    pub enabled: bool,
    pub has_bias: bool,
}

/// Sets whether a layer quantizes its activations to 8 bits at run time.
pub(crate) fn set_int8_dynamic(layer: &mut NeuralNetworkLayer, enabled: bool) {
    match &mut layer.layer {
        Some(Layer::InnerProduct(params)) => params.int8_dynamic_quantize = enabled,
        Some(Layer::BatchedMatmul(params)) => params.int8_dynamic_quantize = enabled,
        _ => {}
    }
}

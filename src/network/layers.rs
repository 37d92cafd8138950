//! The table of weights: which weights a layer has, their shapes, and what Core ML allows for each.
//!
//! Everything that knows layer types asks here. The match is exhaustive, so a new layer type in the schema does not
//! compile until someone has decided what its weights are. Where a field lies in the generated types comes from the
//! schema itself, and is joined by the field's name; a test holds the table against the schema: every field of type
//! `WeightParams` is listed.

pub(crate) mod fold;

use std::borrow::Cow;

use super::rules::Rule;
use super::shape::{Shape, as_stored, by_rows, constant, convolution, convolution3d, normalized, size, vector};
use crate::error::ShapeError;
use crate::format::proto::activation_params::NonlinearityType;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{NeuralNetworkLayer, WeightParams};
use crate::format::{slots, slots_mut};

/// One weight of a layer.
#[derive(Debug)]
pub(crate) struct Weight<P> {
    /// The field's name in the format; `weightParams[1].inputGateBiasVector` in a bidirectional LSTM.
    pub field: Cow<'static, str>,
    /// Row-major dimensions.
    pub shape: Result<Shape, ShapeError>,
    /// What may be stored in this place.
    pub rule: Rule,
    /// Whether the layer works without it: statistics that are computed at run time.
    pub optional: bool,
    /// The stored weight, if the field is set.
    pub params: Option<P>,
}

/// The parts of an LSTM that have matrices and biases.
const LSTM_GATES: [&str; 4] = ["inputGate", "forgetGate", "blockInput", "outputGate"];

/// Those that have a peephole.
const LSTM_PEEPHOLES: [&str; 3] = ["inputGate", "forgetGate", "outputGate"];

/// Sets of weights in a bidirectional LSTM: forward and backward.
const DIRECTIONS: usize = 2;

/// Which of an LSTM's weights are read, and their sizes.
struct LstmSizes {
    inputs: u64,
    outputs: u64,
    biases: bool,
    peepholes: bool,
}

/// A weight that a layer reads, stored or not.
struct Listed {
    field: Cow<'static, str>,
    shape: Result<Shape, ShapeError>,
    rule: Rule,
    optional: bool,
}

/// The weights of a layer, in the order of the table.
struct Table(Vec<Listed>);

impl Table {
    fn add(&mut self, field: impl Into<Cow<'static, str>>, shape: Result<Shape, ShapeError>, rule: Rule) {
        self.0.push(Listed { field: field.into(), shape, rule, optional: false });
    }

    fn add_optional(&mut self, field: &'static str, shape: Result<Shape, ShapeError>) {
        self.0.push(Listed { field: field.into(), shape, rule: Rule::Any, optional: true });
    }
}

/// The table: every weight that Core ML reads of a layer, in a fixed order.
fn listed(layer: &NeuralNetworkLayer) -> Vec<Listed> {
    let mut table = Table(Vec::new());
    let inputs = layer.input.len();
    let Some(layer) = &layer.layer else { return table.0 };
    match layer {
        // With a second input the weights come from there, and the stored ones are not read.
        Layer::Convolution(_) | Layer::BatchedMatmul(_) if inputs > 1 => {}
        Layer::Convolution(p) => {
            let shape = convolution(p);
            table.add("weights", shape, Rule::Any);
            if p.has_bias {
                table.add("bias", vector(p.output_channels), Rule::Any);
            }
        }
        Layer::Convolution3d(p) => {
            let shape = convolution3d(p);
            table.add("weights", shape, Rule::FloatOnly);
            if p.has_bias {
                let shape = size("outputChannels", p.output_channels).and_then(vector);
                table.add("bias", shape, Rule::FloatOnly);
            }
        }
        Layer::InnerProduct(p) => {
            let shape = by_rows(&[p.output_channels, p.input_channels]);
            table.add("weights", shape, Rule::AnyOrInt8);
            if p.has_bias {
                table.add("bias", vector(p.output_channels), Rule::Any);
            }
        }
        Layer::BatchedMatmul(p) => {
            let outputs = p.weight_matrix_second_dimension;
            // Stored column-major: a row of the stored matrix belongs to one output.
            let shape = by_rows(&[outputs, p.weight_matrix_first_dimension]);
            table.add("weights", shape, Rule::AnyOrInt8);
            if p.has_bias {
                table.add("bias", vector(outputs), Rule::Any);
            }
        }
        Layer::Embedding(p) => {
            let shape = by_rows(&[p.output_channels, p.input_dim]);
            table.add("weights", shape, Rule::Any);
            if p.has_bias {
                table.add("bias", vector(p.output_channels), Rule::Any);
            }
        }
        Layer::EmbeddingNd(p) => {
            let shape = by_rows(&[p.embedding_size, p.vocab_size]);
            table.add("weights", shape, Rule::Any);
            if p.has_bias {
                table.add("bias", vector(p.embedding_size), Rule::Any);
            }
        }
        Layer::Batchnorm(p) => {
            let at_run_time = p.compute_mean_var || p.instance_normalization;
            table.add("gamma", vector(p.channels), Rule::Any);
            table.add("beta", vector(p.channels), Rule::Any);
            for field in ["mean", "variance"] {
                if at_run_time {
                    table.add_optional(field, vector(p.channels));
                } else {
                    table.add(field, vector(p.channels), Rule::Any);
                }
            }
        }
        Layer::Scale(p) => {
            table.add("scale", constant(&p.shape_scale), Rule::Any);
            if p.has_bias {
                table.add("bias", constant(&p.shape_bias), Rule::Any);
            }
        }
        Layer::Bias(p) => table.add("bias", constant(&p.shape), Rule::Any),
        Layer::LoadConstant(p) => table.add("data", constant(&p.shape), Rule::Any),
        Layer::LoadConstantNd(p) => table.add("data", Shape::new(&p.shape), Rule::Any),
        Layer::SimpleRecurrent(p) => {
            let (h, i) = (p.output_vector_size, p.input_vector_size);
            table.add("weightMatrix", by_rows(&[h, i]), Rule::Any);
            table.add("recursionMatrix", by_rows(&[h, h]), Rule::Any);
            if p.has_bias_vector {
                table.add("biasVector", vector(h), Rule::Any);
            }
        }
        Layer::Gru(p) => {
            let (h, i) = (p.output_vector_size, p.input_vector_size);
            for field in ["updateGateWeightMatrix", "resetGateWeightMatrix", "outputGateWeightMatrix"] {
                table.add(field, by_rows(&[h, i]), Rule::Any);
            }
            for field in ["updateGateRecursionMatrix", "resetGateRecursionMatrix", "outputGateRecursionMatrix"] {
                table.add(field, by_rows(&[h, h]), Rule::Any);
            }
            if p.has_bias_vectors {
                for field in ["updateGateBiasVector", "resetGateBiasVector", "outputGateBiasVector"] {
                    table.add(field, vector(h), Rule::Any);
                }
            }
        }
        Layer::UniDirectionalLstm(p) => {
            let options = p.params.unwrap_or_default();
            let sizes = LstmSizes {
                inputs: p.input_vector_size,
                outputs: p.output_vector_size,
                biases: options.has_bias_vectors,
                peepholes: options.has_peephole_vectors,
            };
            lstm(&mut table, "weightParams", &sizes);
        }
        Layer::BiDirectionalLstm(p) => {
            let options = p.params.unwrap_or_default();
            let sizes = LstmSizes {
                inputs: p.input_vector_size,
                outputs: p.output_vector_size,
                biases: options.has_bias_vectors,
                peepholes: options.has_peephole_vectors,
            };
            for direction in 0..p.weight_params.len().max(DIRECTIONS) {
                lstm(&mut table, &format!("weightParams[{direction}]"), &sizes);
            }
        }
        Layer::LayerNormalization(p) => {
            for field in ["gamma", "beta"] {
                table.add(field, normalized(&p.normalized_shape), Rule::Float32Only);
            }
        }
        Layer::Activation(p) => match &p.nonlinearity_type {
            Some(NonlinearityType::PReLu(p)) => {
                let shape = as_stored(p.alpha.as_ref());
                table.add("PReLU.alpha", shape, Rule::LeaveAlone);
            }
            Some(NonlinearityType::ParametricSoftplus(p)) => {
                let shape = as_stored(p.alpha.as_ref());
                table.add("parametricSoftplus.alpha", shape, Rule::LeaveAlone);
                let shape = as_stored(p.beta.as_ref());
                table.add("parametricSoftplus.beta", shape, Rule::LeaveAlone);
            }
            None
            | Some(
                NonlinearityType::Linear(_)
                | NonlinearityType::ReLu(_)
                | NonlinearityType::LeakyReLu(_)
                | NonlinearityType::ThresholdedReLu(_)
                | NonlinearityType::Tanh(_)
                | NonlinearityType::ScaledTanh(_)
                | NonlinearityType::Sigmoid(_)
                | NonlinearityType::SigmoidHard(_)
                | NonlinearityType::Elu(_)
                | NonlinearityType::Softsign(_)
                | NonlinearityType::Softplus(_),
            ) => {}
        },
        Layer::Custom(p) => {
            for (index, params) in p.weights.iter().enumerate() {
                let shape = as_stored(Some(params));
                table.add(format!("weights[{index}]"), shape, Rule::LeaveAlone);
            }
        }
        // No weights of their own; the networks inside branches and loops are walked with the model.
        Layer::Pooling(_)
        | Layer::Mvn(_)
        | Layer::L2normalize(_)
        | Layer::Softmax(_)
        | Layer::Lrn(_)
        | Layer::Crop(_)
        | Layer::Padding(_)
        | Layer::Upsample(_)
        | Layer::ResizeBilinear(_)
        | Layer::CropResize(_)
        | Layer::Unary(_)
        | Layer::Add(_)
        | Layer::Multiply(_)
        | Layer::Average(_)
        | Layer::Max(_)
        | Layer::Min(_)
        | Layer::Dot(_)
        | Layer::Reduce(_)
        | Layer::Reshape(_)
        | Layer::Flatten(_)
        | Layer::Permute(_)
        | Layer::Concat(_)
        | Layer::Split(_)
        | Layer::SequenceRepeat(_)
        | Layer::ReorganizeData(_)
        | Layer::Slice(_)
        | Layer::Copy(_)
        | Layer::Branch(_)
        | Layer::Loop(_)
        | Layer::LoopBreak(_)
        | Layer::LoopContinue(_)
        | Layer::RangeStatic(_)
        | Layer::RangeDynamic(_)
        | Layer::Clip(_)
        | Layer::Ceil(_)
        | Layer::Floor(_)
        | Layer::Sign(_)
        | Layer::Round(_)
        | Layer::Exp2(_)
        | Layer::Sin(_)
        | Layer::Cos(_)
        | Layer::Tan(_)
        | Layer::Asin(_)
        | Layer::Acos(_)
        | Layer::Atan(_)
        | Layer::Sinh(_)
        | Layer::Cosh(_)
        | Layer::Tanh(_)
        | Layer::Asinh(_)
        | Layer::Acosh(_)
        | Layer::Atanh(_)
        | Layer::Erf(_)
        | Layer::Gelu(_)
        | Layer::Equal(_)
        | Layer::NotEqual(_)
        | Layer::LessThan(_)
        | Layer::LessEqual(_)
        | Layer::GreaterThan(_)
        | Layer::GreaterEqual(_)
        | Layer::LogicalOr(_)
        | Layer::LogicalXor(_)
        | Layer::LogicalNot(_)
        | Layer::LogicalAnd(_)
        | Layer::ModBroadcastable(_)
        | Layer::MinBroadcastable(_)
        | Layer::MaxBroadcastable(_)
        | Layer::AddBroadcastable(_)
        | Layer::PowBroadcastable(_)
        | Layer::DivideBroadcastable(_)
        | Layer::FloorDivBroadcastable(_)
        | Layer::MultiplyBroadcastable(_)
        | Layer::SubtractBroadcastable(_)
        | Layer::Tile(_)
        | Layer::Stack(_)
        | Layer::Gather(_)
        | Layer::Scatter(_)
        | Layer::GatherNd(_)
        | Layer::ScatterNd(_)
        | Layer::SoftmaxNd(_)
        | Layer::GatherAlongAxis(_)
        | Layer::ScatterAlongAxis(_)
        | Layer::Reverse(_)
        | Layer::ReverseSeq(_)
        | Layer::SplitNd(_)
        | Layer::ConcatNd(_)
        | Layer::Transpose(_)
        | Layer::SliceStatic(_)
        | Layer::SliceDynamic(_)
        | Layer::SlidingWindows(_)
        | Layer::TopK(_)
        | Layer::ArgMin(_)
        | Layer::ArgMax(_)
        | Layer::GetShape(_)
        | Layer::FillLike(_)
        | Layer::FillStatic(_)
        | Layer::FillDynamic(_)
        | Layer::BroadcastToLike(_)
        | Layer::BroadcastToStatic(_)
        | Layer::BroadcastToDynamic(_)
        | Layer::Squeeze(_)
        | Layer::ExpandDims(_)
        | Layer::FlattenTo2D(_)
        | Layer::ReshapeLike(_)
        | Layer::ReshapeStatic(_)
        | Layer::ReshapeDynamic(_)
        | Layer::RankPreservingReshape(_)
        | Layer::ConstantPad(_)
        | Layer::RandomNormalLike(_)
        | Layer::RandomNormalStatic(_)
        | Layer::RandomNormalDynamic(_)
        | Layer::RandomUniformLike(_)
        | Layer::RandomUniformStatic(_)
        | Layer::RandomUniformDynamic(_)
        | Layer::RandomBernoulliLike(_)
        | Layer::RandomBernoulliStatic(_)
        | Layer::RandomBernoulliDynamic(_)
        | Layer::CategoricalDistribution(_)
        | Layer::ReduceL1(_)
        | Layer::ReduceL2(_)
        | Layer::ReduceMax(_)
        | Layer::ReduceMin(_)
        | Layer::ReduceSum(_)
        | Layer::ReduceProd(_)
        | Layer::ReduceMean(_)
        | Layer::ReduceLogSum(_)
        | Layer::ReduceSumSquare(_)
        | Layer::ReduceLogSumExp(_)
        | Layer::WhereNonZero(_)
        | Layer::MatrixBandPart(_)
        | Layer::LowerTriangular(_)
        | Layer::UpperTriangular(_)
        | Layer::WhereBroadcastable(_)
        | Layer::NonMaximumSuppression(_)
        | Layer::OneHot(_)
        | Layer::CumSum(_)
        | Layer::ClampedReLu(_)
        | Layer::ArgSort(_)
        | Layer::Pooling3d(_)
        | Layer::GlobalPooling3d(_)
        | Layer::SliceBySize(_) => {}
    }
    table.0
}

fn lstm(table: &mut Table, set: &str, sizes: &LstmSizes) {
    let (h, i) = (sizes.outputs, sizes.inputs);
    for gate in LSTM_GATES {
        table.add(format!("{set}.{gate}WeightMatrix"), by_rows(&[h, i]), Rule::Any);
    }
    for gate in LSTM_GATES {
        table.add(format!("{set}.{gate}RecursionMatrix"), by_rows(&[h, h]), Rule::Any);
    }
    if sizes.biases {
        for gate in LSTM_GATES {
            table.add(format!("{set}.{gate}BiasVector"), vector(h), Rule::Any);
        }
    }
    if sizes.peepholes {
        for gate in LSTM_PEEPHOLES {
            table.add(format!("{set}.{gate}PeepholeVector"), vector(h), Rule::Any);
        }
    }
}

/// The weights of a layer that Core ML reads, in a fixed order.
pub(crate) fn weights(layer: &NeuralNetworkLayer) -> Vec<Weight<&WeightParams>> {
    join(listed(layer), slots(layer))
}

/// As [`weights`], to be changed.
pub(crate) fn weights_mut(layer: &mut NeuralNetworkLayer) -> Vec<Weight<&mut WeightParams>> {
    join(listed(layer), slots_mut(layer))
}

/// Puts what a layer reads together with what is stored, by the names of the fields.
fn join<P>(listed: Vec<Listed>, mut slots: Vec<(Cow<'static, str>, Option<P>)>) -> Vec<Weight<P>> {
    let weight = |Listed { field, shape, rule, optional }| {
        let params = slots.iter_mut().find(|(name, _)| *name == field).and_then(|(_, params)| params.take());
        Weight { field, shape, rule, optional, params }
    };
    listed.into_iter().map(weight).collect()
}

/// Whether on-device training may change a layer.
pub(crate) fn is_updatable(layer: &NeuralNetworkLayer) -> bool {
    layer.is_updatable || weights(layer).iter().any(|weight| weight.params.is_some_and(|params| params.is_updatable))
}

/// Whether a weight is a vector that is added or multiplied once a channel: a bias, a peephole, what a normalization,
/// `scale` or `bias` layer has.
pub(crate) fn is_bias(layer: &NeuralNetworkLayer, shape: &Shape) -> bool {
    match layer.layer {
        // A whole image of them is a constant like any other.
        Some(Layer::Scale(_) | Layer::Bias(_)) => shape.dims.iter().filter(|&&dim| dim > 1).count() <= 1,
        Some(Layer::LoadConstant(_) | Layer::LoadConstantNd(_)) | None => false,
        Some(_) => shape.dims.len() == 1,
    }
}

/// Whether a layer reads a sequence step by step.
#[cfg(feature = "predict")]
pub(crate) fn is_recurrent(layer: &NeuralNetworkLayer) -> bool {
    matches!(
        layer.layer,
        Some(Layer::SimpleRecurrent(_) | Layer::Gru(_) | Layer::UniDirectionalLstm(_) | Layer::BiDirectionalLstm(_))
    )
}

/// How many words a layer looks up; `None` if it takes something else than words, or none of them.
#[cfg(feature = "predict")]
pub(crate) fn words(layer: &NeuralNetworkLayer) -> Option<usize> {
    let words = match layer.layer.as_ref()? {
        Layer::Embedding(p) => p.input_dim,
        Layer::EmbeddingNd(p) => p.vocab_size,
        Layer::OneHot(p) => p.one_hot_vector_size,
        _ => return None,
    };
    usize::try_from(words).ok().filter(|&words| words > 0)
}

/// Whether a layer that may have a bias of its outputs has one; `None` for layers that cannot.
#[cfg(feature = "predict")]
pub(crate) fn has_bias(layer: &NeuralNetworkLayer) -> Option<bool> {
    Some(match layer.layer.as_ref()? {
        Layer::Convolution(p) => p.has_bias,
        Layer::InnerProduct(p) => p.has_bias,
        Layer::BatchedMatmul(p) => p.has_bias,
        Layer::Embedding(p) => p.has_bias,
        Layer::EmbeddingNd(p) => p.has_bias,
        _ => return None,
    })
}

/// Gives a layer a bias, if it may have one.
pub(crate) fn add_bias(layer: &mut NeuralNetworkLayer, bias: WeightParams) {
    let (has_bias, place) = match layer.layer.as_mut() {
        Some(Layer::Convolution(p)) => (&mut p.has_bias, &mut p.bias),
        Some(Layer::InnerProduct(p)) => (&mut p.has_bias, &mut p.bias),
        Some(Layer::BatchedMatmul(p)) => (&mut p.has_bias, &mut p.bias),
        Some(Layer::Embedding(p)) => (&mut p.has_bias, &mut p.bias),
        Some(Layer::EmbeddingNd(p)) => (&mut p.has_bias, &mut p.bias),
        _ => return,
    };
    (*has_bias, *place) = (true, Some(bias));
}

#[cfg(test)]
mod tests;

//! What layers take their inputs for, and with that which stored values must stay exactly what they are.
//!
//! Core ML stores everything as floats, indices and shapes too. Where an input of a layer is an index, a shape, a
//! count or a condition, a constant that comes there is not a weight that may be a little off: 11.99 in place of 12
//! is another network. [`Input::of`] is the table of what every input of every layer means, beside that of weights
//! ([`layers`](super::layers)); [`Uses`] follows such inputs back through a network, branches and loops included, to
//! the layers that store the values.
//!
//! The way back leads through layers that only move values (reshape, gather, concat) and through the arithmetic that
//! indices are computed with (add, multiply, floor, sum). It ends where something else is computed: an index that comes
//! from an `argMax` says nothing about the exactness of what that compared. What a custom layer does with its inputs
//! nobody knows; they count as data.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use crate::format::proto::activation_params::NonlinearityType;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::reduce_layer_params::ReduceOperation;
use crate::format::proto::upsample_layer_params::InterpolationMode;
use crate::format::proto::{Model, NeuralNetworkLayer, ReduceLayerParams};
use crate::model::walk::{self, inner_networks};

/// What a layer takes values for that must be exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ValueUse {
    /// Positions in another array: what to gather, where to scatter, rows of an embedding, corners of boxes.
    Index,
    /// The sizes of an array.
    Shape,
    /// The number of an axis.
    Axis,
    /// How many there shall be: repetitions, rounds, best values, padding.
    Count,
    /// How long something is: a sequence, a range.
    Length,
    /// Zero or not.
    Condition,
}

impl fmt::Display for ValueUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Index => "index",
            Self::Shape => "shape",
            Self::Axis => "axis",
            Self::Count => "count",
            Self::Length => "length",
            Self::Condition => "condition",
        })
    }
}

/// Where the values of an input go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    /// Into no output: something else is computed from them.
    Nowhere,
    /// Into every output, moved or with a little arithmetic.
    On,
    /// Into one of the outputs.
    To(usize),
}

/// What one input of a layer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Input {
    /// What it must be exact for; `None` for data, and where only the input's shape counts.
    pub exact_for: Option<ValueUse>,
    pub passes: Passes,
}

/// Data of which something else is computed.
const DATA: Input = Input { exact_for: None, passes: Passes::Nowhere };
/// An array of which only the shape counts.
const ITS_SHAPE: Input = DATA;
/// Values that go on as they are, or as sums and products.
const PASSED: Input = Input { exact_for: None, passes: Passes::On };

const fn exact(used_as: ValueUse) -> Input {
    Input { exact_for: Some(used_as), passes: Passes::Nowhere }
}

const INDEX: Input = exact(ValueUse::Index);
const SHAPE: Input = exact(ValueUse::Shape);
const AXIS: Input = exact(ValueUse::Axis);
const COUNT: Input = exact(ValueUse::Count);
const LENGTH: Input = exact(ValueUse::Length);
const CONDITION: Input = exact(ValueUse::Condition);

impl Input {
    /// The table: what the input with an index means to a layer, whether the layer has so many or not.
    pub(crate) fn of(layer: &Layer, index: usize) -> Self {
        match layer {
            // Arithmetic, element by element or over an axis.
            Layer::Add(_)
            | Layer::Multiply(_)
            | Layer::Average(_)
            | Layer::Max(_)
            | Layer::Min(_)
            | Layer::AddBroadcastable(_)
            | Layer::SubtractBroadcastable(_)
            | Layer::MultiplyBroadcastable(_)
            | Layer::DivideBroadcastable(_)
            | Layer::FloorDivBroadcastable(_)
            | Layer::ModBroadcastable(_)
            | Layer::PowBroadcastable(_)
            | Layer::MinBroadcastable(_)
            | Layer::MaxBroadcastable(_)
            | Layer::Unary(_)
            | Layer::Clip(_)
            | Layer::ClampedReLu(_)
            | Layer::Ceil(_)
            | Layer::Floor(_)
            | Layer::Round(_)
            | Layer::Sign(_)
            | Layer::Scale(_)
            | Layer::Bias(_)
            | Layer::ReduceSum(_)
            | Layer::ReduceProd(_)
            | Layer::ReduceMean(_)
            | Layer::ReduceMax(_)
            | Layer::ReduceMin(_) => PASSED,
            Layer::Activation(p) => match p.nonlinearity_type {
                Some(NonlinearityType::Linear(_) | NonlinearityType::ReLu(_)) => PASSED,
                _ => DATA,
            },
            Layer::Reduce(p) => reduced(p),
            Layer::CumSum(_) => {
                if index == 0 {
                    PASSED
                } else {
                    AXIS
                }
            }

            // Comparisons go on as conditions, which must be exact at the end of the way, if there is one.
            Layer::Equal(_)
            | Layer::NotEqual(_)
            | Layer::LessThan(_)
            | Layer::LessEqual(_)
            | Layer::GreaterThan(_)
            | Layer::GreaterEqual(_) => PASSED,
            // Only whether values are zero counts.
            Layer::LogicalOr(_)
            | Layer::LogicalXor(_)
            | Layer::LogicalNot(_)
            | Layer::LogicalAnd(_)
            | Layer::WhereNonZero(_) => CONDITION,
            Layer::WhereBroadcastable(_) => {
                if index == 0 {
                    CONDITION
                } else {
                    PASSED
                }
            }
            Layer::Branch(_) => CONDITION,
            Layer::Loop(_) => COUNT,

            // The same values in another place.
            Layer::Copy(_)
            | Layer::Reshape(_)
            | Layer::Flatten(_)
            | Layer::Permute(_)
            | Layer::Concat(_)
            | Layer::Split(_)
            | Layer::SequenceRepeat(_)
            | Layer::ReorganizeData(_)
            | Layer::Slice(_)
            | Layer::Padding(_)
            | Layer::Stack(_)
            | Layer::Reverse(_)
            | Layer::SplitNd(_)
            | Layer::ConcatNd(_)
            | Layer::Transpose(_)
            | Layer::SliceStatic(_)
            | Layer::SlidingWindows(_)
            | Layer::BroadcastToStatic(_)
            | Layer::Squeeze(_)
            | Layer::ExpandDims(_)
            | Layer::FlattenTo2D(_)
            | Layer::ReshapeStatic(_)
            | Layer::RankPreservingReshape(_)
            | Layer::MatrixBandPart(_)
            | Layer::LowerTriangular(_)
            | Layer::UpperTriangular(_) => PASSED,
            Layer::Upsample(p) => {
                if p.mode == InterpolationMode::Nn as i32 {
                    PASSED
                } else {
                    DATA
                }
            }
            Layer::Crop(_) | Layer::ReshapeLike(_) | Layer::BroadcastToLike(_) => {
                if index == 0 {
                    PASSED
                } else {
                    ITS_SHAPE
                }
            }
            Layer::ReshapeDynamic(_) | Layer::BroadcastToDynamic(_) => {
                if index == 0 {
                    PASSED
                } else {
                    SHAPE
                }
            }
            Layer::Tile(_) | Layer::ConstantPad(_) => {
                if index == 0 {
                    PASSED
                } else {
                    COUNT
                }
            }
            Layer::ReverseSeq(_) => {
                if index == 0 {
                    PASSED
                } else {
                    LENGTH
                }
            }
            // Data, then begins, ends, strides and masks.
            Layer::SliceDynamic(_) | Layer::SliceBySize(_) => {
                if index == 0 {
                    PASSED
                } else {
                    INDEX
                }
            }
            Layer::Gather(_) | Layer::GatherNd(_) | Layer::GatherAlongAxis(_) => {
                if index == 0 {
                    PASSED
                } else {
                    INDEX
                }
            }
            // Data, where to write, and what.
            Layer::Scatter(_) | Layer::ScatterNd(_) | Layer::ScatterAlongAxis(_) => {
                if index == 1 {
                    INDEX
                } else {
                    PASSED
                }
            }
            // The values go on, their indices are no values.
            Layer::TopK(_) => {
                if index == 0 {
                    to(0)
                } else {
                    COUNT
                }
            }
            Layer::NonMaximumSuppression(_) => match index {
                // Boxes and scores.
                0 | 1 => to(index),
                // Thresholds.
                2 | 3 => DATA,
                _ => COUNT,
            },

            // Values that are made of indices, shapes and lengths.
            Layer::Embedding(_) | Layer::EmbeddingNd(_) => INDEX,
            Layer::CropResize(_) => {
                if index == 0 {
                    DATA
                } else {
                    INDEX
                }
            }
            Layer::OneHot(_) => {
                if index == 0 {
                    INDEX
                } else {
                    COUNT
                }
            }
            Layer::RangeDynamic(_) => LENGTH,
            Layer::FillDynamic(_)
            | Layer::RandomNormalDynamic(_)
            | Layer::RandomUniformDynamic(_)
            | Layer::RandomBernoulliDynamic(_) => SHAPE,
            Layer::GetShape(_)
            | Layer::FillLike(_)
            | Layer::RandomNormalLike(_)
            | Layer::RandomUniformLike(_)
            | Layer::RandomBernoulliLike(_) => ITS_SHAPE,

            // Without inputs.
            Layer::LoadConstant(_)
            | Layer::LoadConstantNd(_)
            | Layer::FillStatic(_)
            | Layer::RangeStatic(_)
            | Layer::RandomNormalStatic(_)
            | Layer::RandomUniformStatic(_)
            | Layer::RandomBernoulliStatic(_)
            | Layer::LoopBreak(_)
            | Layer::LoopContinue(_) => DATA,

            // Data that something else is made of.
            Layer::Convolution(_)
            | Layer::Convolution3d(_)
            | Layer::Pooling(_)
            | Layer::Pooling3d(_)
            | Layer::GlobalPooling3d(_)
            | Layer::InnerProduct(_)
            | Layer::BatchedMatmul(_)
            | Layer::Dot(_)
            | Layer::Batchnorm(_)
            | Layer::Mvn(_)
            | Layer::L2normalize(_)
            | Layer::LayerNormalization(_)
            | Layer::Lrn(_)
            | Layer::Softmax(_)
            | Layer::SoftmaxNd(_)
            | Layer::ResizeBilinear(_)
            | Layer::SimpleRecurrent(_)
            | Layer::Gru(_)
            | Layer::UniDirectionalLstm(_)
            | Layer::BiDirectionalLstm(_)
            | Layer::Custom(_)
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
            | Layer::ReduceL1(_)
            | Layer::ReduceL2(_)
            | Layer::ReduceLogSum(_)
            | Layer::ReduceSumSquare(_)
            | Layer::ReduceLogSumExp(_)
            | Layer::ArgMax(_)
            | Layer::ArgMin(_)
            | Layer::ArgSort(_)
            | Layer::CategoricalDistribution(_) => DATA,
        }
    }
}

const fn to(output: usize) -> Input {
    Input { exact_for: None, passes: Passes::To(output) }
}

/// Sums, products, means and extremes go on; positions of extremes, norms and logarithms do not.
fn reduced(params: &ReduceLayerParams) -> Input {
    use ReduceOperation::{Avg, Max, Min, Prod, Sum};
    match ReduceOperation::try_from(params.mode) {
        Ok(Sum | Avg | Prod | Max | Min) => PASSED,
        _ => DATA,
    }
}

/// Whether the stored values of a layer are in its outputs: those of constants, and what `scale` and `bias` layers
/// compute with.
fn stores_values(layer: &NeuralNetworkLayer) -> bool {
    use Layer::{Bias, LoadConstant, LoadConstantNd, Scale};
    matches!(layer.layer, Some(LoadConstant(_) | LoadConstantNd(_) | Scale(_) | Bias(_)))
}

/// Which layers of a model store values that must be exact.
///
/// Arrays are told apart by name alone: those of branches and loops belong to the network around them, and one that is
/// written in several places must be exact in all of them if it must be in one.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// By the layer's index among all layers of the model.
    stored: BTreeMap<usize, ValueUse>,
}

impl Uses {
    /// Follows the inputs that must be exact back through every network of a model.
    pub(crate) fn of_model(model: &Model) -> Self {
        let (mut stored, mut index) = (BTreeMap::new(), 0);
        walk::each_model(model, walk::ROOT, &mut |path, model| {
            let exact = walk::network(model).map(|(layers, _)| exact_arrays(layers)).unwrap_or_default();
            walk::each_own_layer(model, path, &mut index, &mut |at, layer| {
                let mut uses = layer.output.iter().filter_map(|output| exact.get(output.as_str()));
                if stores_values(layer)
                    && let Some(&used_as) = uses.next()
                {
                    stored.insert(at.index, used_as);
                }
            });
        });
        Self { stored }
    }

    /// What the stored values of the layer with an index must be exact for; `None` if they need not be.
    pub(crate) fn of_stored(&self, index: usize) -> Option<ValueUse> {
        self.stored.get(&index).copied()
    }
}

/// The way back from an array to those it is made of.
#[derive(Default)]
struct Origins<'m> {
    /// By layer, the inputs that pass into every output; emptied when they were followed.
    passed: Vec<Vec<&'m str>>,
    /// By array, the layers that write it.
    written_by: HashMap<&'m str, Vec<usize>>,
    /// By array, inputs that pass into it alone.
    made_of: HashMap<&'m str, Vec<&'m str>>,
    /// Arrays that must be exact, in the order in which they were found.
    found: VecDeque<(&'m str, ValueUse)>,
}

/// The arrays of a network that must be exact. Takes time in the number of layers, inputs and outputs.
fn exact_arrays(layers: &[NeuralNetworkLayer]) -> HashMap<&str, ValueUse> {
    let mut origins = Origins::default();
    origins.collect(layers);
    let mut exact = HashMap::new();
    while let Some((name, used_as)) = origins.found.pop_front() {
        if exact.contains_key(name) {
            continue;
        }
        exact.insert(name, used_as);
        for &layer in origins.written_by.get(name).into_iter().flatten() {
            let passed = std::mem::take(&mut origins.passed[layer]);
            origins.found.extend(passed.into_iter().map(|input| (input, used_as)));
        }
        let made_of = origins.made_of.get(name).into_iter().flatten();
        origins.found.extend(made_of.map(|&input| (input, used_as)));
    }
    exact
}

impl<'m> Origins<'m> {
    fn collect(&mut self, layers: &'m [NeuralNetworkLayer]) {
        for layer in layers {
            let Some(kind) = &layer.layer else { continue };
            let mut passed = Vec::new();
            for (index, name) in layer.input.iter().enumerate() {
                let input = Input::of(kind, index);
                if let Some(used_as) = input.exact_for {
                    self.found.push_back((name, used_as));
                }
                match input.passes {
                    Passes::Nowhere => {}
                    Passes::On => passed.push(name.as_str()),
                    Passes::To(output) => {
                        if let Some(output) = layer.output.get(output) {
                            self.made_of.entry(output).or_default().push(name);
                        }
                    }
                }
            }
            for output in &layer.output {
                self.written_by.entry(output).or_default().push(self.passed.len());
            }
            self.passed.push(passed);
            if let Layer::Loop(params) = kind
                && !params.condition_var.is_empty()
            {
                self.found.push_back((&params.condition_var, ValueUse::Condition));
            }
            for (_, inner) in inner_networks(layer) {
                self.collect(&inner.layers);
            }
        }
    }
}

#[cfg(test)]
mod tests;

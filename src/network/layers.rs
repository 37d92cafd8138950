//! The table of weights: which weights a layer has, their shapes, and what Core ML allows for each.
//!
//! Everything that knows layer types asks here. The match is exhaustive, so a new layer type in the schema does not
//! compile until someone has decided what its weights are. Where a field lies in the generated types comes from the
//! schema itself, and is joined by the field's name; a test holds the table against the schema: every field of type
//! `WeightParams` is listed.
//!
//! A rule about several weights of a layer, or about a layer as a whole, has a function of its own beside the table.

pub(crate) mod fold;

use std::borrow::Cow;

use crate::error::ShapeError;
use crate::format::proto::activation_params::NonlinearityType;
use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{
    BatchedMatMulLayerParams, Convolution3DLayerParams, ConvolutionLayerParams, InnerProductLayerParams, NeuralNetwork,
    NeuralNetworkLayer, WeightParams,
};
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

/// The shape of a weight, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The dimensions.
    pub dims: Vec<usize>,
    /// Their product: the number of values.
    pub units: usize,
    /// The axis along which scales may differ; without one there is a single scale.
    pub channels: Option<ChannelAxis>,
}

/// The axis of a weight's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelAxis {
    /// The dimension's index.
    pub axis: usize,
    /// In how many equal slabs of the first dimension the channels are repeated with scales of their own: the groups
    /// of a grouped deconvolution, 1 elsewhere.
    pub groups: usize,
    /// Whether linear modes write a scale for each channel. coremltools writes a single one for constants although
    /// Core ML reads more, and for a grouped deconvolution a number that Core ML rejects.
    pub scale_each: bool,
}

impl Shape {
    fn new(dims: &[u64]) -> Result<Self, ShapeError> {
        let mut units = 1_usize;
        let mut sizes = Vec::with_capacity(dims.len());
        for &dim in dims {
            let overflow = || ShapeError::Overflow { shape: dims.to_vec() };
            let size = usize::try_from(dim).map_err(|_| overflow())?;
            units = units.checked_mul(size).ok_or_else(overflow)?;
            sizes.push(size);
        }
        // Four bytes a value must be addressable, and a scalar without dimensions is not a weight.
        if units > isize::MAX as usize / 8 {
            return Err(ShapeError::Overflow { shape: dims.to_vec() });
        }
        Ok(Self { units: if dims.is_empty() { 0 } else { units }, dims: sizes, channels: None })
    }

    fn along(mut self, axis: usize) -> Self {
        self.channels = Some(ChannelAxis { axis, groups: 1, scale_each: true });
        self
    }

    /// The number of scales that a weight of this shape may have besides 1.
    pub(crate) fn channel_count(&self) -> usize {
        self.channels.map_or(1, |channels| self.dims[channels.axis] * channels.groups)
    }

    /// The axis along which linear modes write a scale each.
    pub(crate) fn scale_axis(&self) -> Option<usize> {
        self.channels.filter(|channels| channels.scale_each).map(|channels| channels.axis)
    }
}

/// A matrix or tensor whose first axis are the channels.
fn by_rows(dims: &[u64]) -> Result<Shape, ShapeError> {
    Ok(Shape::new(dims)?.along(0))
}

fn vector(len: u64) -> Result<Shape, ShapeError> {
    Shape::new(&[len])
}

/// A constant of up to three dimensions (`scale`, `bias`, `loadConstant`): with three, Core ML takes scales along the
/// first.
fn constant(dims: &[u64]) -> Result<Shape, ShapeError> {
    let mut shape = Shape::new(dims)?;
    if let [channels, _, _] = shape.dims[..]
        && channels > 1
    {
        shape.channels = Some(ChannelAxis { axis: 0, groups: 1, scale_each: false });
    }
    Ok(shape)
}

/// A weight whose shape the layer does not tell: as many values as are stored, or as the bytes of packed codes hold.
fn as_stored(params: Option<&WeightParams>) -> Result<Shape, ShapeError> {
    let units = params.map_or(0, |params| {
        let nbits = params.quantization.as_ref().map_or(0, |quantization| quantization.number_of_bits);
        let codes = (params.raw_value.len() as u64 * 8).checked_div(nbits).unwrap_or(0);
        let stored = params.float_value.len().max(params.float16_value.len() / 2).max(params.int8_raw_value.len());
        codes.max(stored as u64)
    });
    vector(units)
}

fn divide(what: &'static str, value: u64, groups: u64) -> Result<u64, ShapeError> {
    if value.is_multiple_of(groups) { Ok(value / groups) } else { Err(ShapeError::Groups { what, value, groups }) }
}

fn convolution(params: &ConvolutionLayerParams) -> Result<Shape, ShapeError> {
    let (height, width) = match params.kernel_size[..] {
        [] => (3, 3),
        [height, width] => (height, width),
        _ => return Err(ShapeError::KernelSize { len: params.kernel_size.len() }),
    };
    let groups = params.n_groups.max(1);
    if !params.is_deconvolution {
        return by_rows(&[params.output_channels, params.kernel_channels, height, width]);
    }
    let outputs = divide("outputChannels", params.output_channels, groups)?;
    let mut shape = Shape::new(&[params.kernel_channels, outputs, height, width])?;
    let slabs = usize::try_from(groups).map_err(|_| ShapeError::Overflow { shape: vec![groups] })?;
    // Slabs of input channels: where they do not divide, a scale per output channel has no meaning.
    if params.kernel_channels.is_multiple_of(groups) {
        shape.channels = Some(ChannelAxis { axis: 1, groups: slabs, scale_each: groups == 1 });
    }
    Ok(shape)
}

/// A size that the format stores as a signed number.
fn size(what: &'static str, value: impl Into<i64>) -> Result<u64, ShapeError> {
    let value = value.into();
    u64::try_from(value).map_err(|_| ShapeError::Negative { what, value })
}

fn normalized(dims: &[i64]) -> Result<Shape, ShapeError> {
    let dims: Result<Vec<u64>, _> = dims.iter().map(|&dim| size("normalizedShape", dim)).collect();
    Shape::new(&dims?)
}

fn convolution3d(params: &Convolution3DLayerParams) -> Result<Shape, ShapeError> {
    let groups = size("nGroups", params.n_groups)?.max(1);
    let outputs = size("outputChannels", params.output_channels)?;
    let inputs = size("inputChannels", params.input_channels)?;
    let (first, second) = if params.is_deconvolution {
        (inputs, divide("outputChannels", outputs, groups)?)
    } else {
        (outputs, divide("inputChannels", inputs, groups)?)
    };
    let mut shape = Shape::new(&[
        first,
        second,
        size("kernelDepth", params.kernel_depth)?,
        size("kernelHeight", params.kernel_height)?,
        size("kernelWidth", params.kernel_width)?,
    ])?;
    let slabs = if params.is_deconvolution { groups } else { 1 };
    if inputs.is_multiple_of(slabs) {
        let groups = usize::try_from(slabs).map_err(|_| ShapeError::Overflow { shape: vec![slabs] })?;
        let axis = usize::from(params.is_deconvolution);
        // Core ML takes no codes here, so there are no scales to write.
        shape.channels = Some(ChannelAxis { axis, groups, scale_each: false });
    }
    Ok(shape)
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

/// The networks inside a layer, with the names of their fields.
pub(crate) fn inner_networks(layer: &NeuralNetworkLayer) -> Vec<(&'static str, &NeuralNetwork)> {
    let networks = match &layer.layer {
        Some(Layer::Branch(p)) => [("ifBranch", p.if_branch.as_ref()), ("elseBranch", p.else_branch.as_ref())],
        Some(Layer::Loop(p)) => {
            [("conditionNetwork", p.condition_network.as_ref()), ("bodyNetwork", p.body_network.as_ref())]
        }
        _ => return Vec::new(),
    };
    networks.into_iter().filter_map(|(name, network)| Some((name, network?))).collect()
}

/// As [`inner_networks`], to be changed.
pub(crate) fn inner_networks_mut(layer: &mut NeuralNetworkLayer) -> Vec<(&'static str, &mut NeuralNetwork)> {
    let networks = match &mut layer.layer {
        Some(Layer::Branch(p)) => [("ifBranch", p.if_branch.as_mut()), ("elseBranch", p.else_branch.as_mut())],
        Some(Layer::Loop(p)) => {
            [("conditionNetwork", p.condition_network.as_mut()), ("bodyNetwork", p.body_network.as_mut())]
        }
        _ => return Vec::new(),
    };
    networks.into_iter().filter_map(|(name, network)| Some((name, network?))).collect()
}

/// What the weights of one layer have to have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// Not some in float16 and others in float32. Quantized ones are free.
    Floats,
    /// As `Floats`, and free as soon as a matrix is quantized.
    FloatsUnlessMatrixQuantized,
    /// All are float32, all float16, or all quantized.
    Kind,
    /// Nothing.
    Free,
}

/// What the weights of a layer have to have in common.
pub(crate) fn agreement(layer: &NeuralNetworkLayer) -> Agreement {
    match &layer.layer {
        Some(Layer::SimpleRecurrent(_)) => Agreement::FloatsUnlessMatrixQuantized,
        Some(Layer::Activation(_)) => Agreement::Kind,
        Some(Layer::Custom(_)) => Agreement::Free,
        _ => Agreement::Floats,
    }
}

/// Whether layers of this type can be trained on the device.
pub(crate) fn can_be_updatable(layer: &NeuralNetworkLayer) -> bool {
    matches!(&layer.layer, Some(Layer::Convolution(_) | Layer::InnerProduct(_) | Layer::UniDirectionalLstm(_)))
}

/// Whether on-device training may change a layer.
pub(crate) fn is_updatable(layer: &NeuralNetworkLayer) -> bool {
    layer.is_updatable || weights(layer).iter().any(|weight| weight.params.is_some_and(|params| params.is_updatable))
}

/// Whether a weight is a vector that is added or multiplied once a channel: a bias, a peephole, what a normalization,
/// `scale` or `bias` layer has.
pub(crate) fn is_bias(layer: &NeuralNetworkLayer, shape: &Shape) -> bool {
    match layer.layer {
        Some(Layer::Scale(_) | Layer::Bias(_)) => true,
        Some(Layer::LoadConstant(_) | Layer::LoadConstantNd(_)) | None => false,
        Some(_) => shape.dims.len() == 1,
    }
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
#[cfg(feature = "predict")]
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

#[cfg(test)]
mod tests;

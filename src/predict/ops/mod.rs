//! The layers without weights: pure functions from inputs and parameters to outputs, a file a family.
//!
//! Values are float32; sums and formulas are computed in float64 where it costs nothing that matters, and rounded
//! once. Booleans are 0 and 1, and anything but zero is true. Indices are floats and are truncated towards zero.
//! What comes out is row-major. Nothing depends on the number of threads.

mod broadcast;
mod checks;
mod elementwise;
mod fill;
mod gather;
mod nms;
mod normalize;
mod random;
mod reduce;
mod resize;
mod shape;
mod slice;
mod sort;
pub(crate) mod uncertain;

#[cfg(test)]
mod tests;

use rand_pcg::Pcg64;

pub(crate) use self::elementwise::erf;

use self::elementwise::{map, map_f64};
use self::random::Shape;
use super::tensor::{LayerError, Tensor};
use crate::format::proto::neural_network_layer::Layer;

/// What a layer needs beside its inputs and parameters.
#[derive(Clone)]
pub(crate) struct Context {
    /// How many outputs the layer names.
    pub output_count: usize,
    /// The most values a blob may have.
    pub max_values: usize,
    /// The state of the layers that draw numbers; each draws once from it, so that what a layer gives depends on the
    /// seed, on its own `seed` and on how many such layers ran before it.
    pub random: Pcg64,
    /// Which statements of [`uncertain`] were used, in order, each once.
    pub notes: Vec<&'static str>,
}

impl Context {
    /// Remembers that something uncertain was computed.
    pub(crate) fn note(&mut self, what: &'static str) {
        if !self.notes.contains(&what) {
            self.notes.push(what);
        }
    }
}

/// The layer's outputs; `None` for layers with weights, control flow and custom layers, which are computed elsewhere.
///
/// As many outputs as the layer can have: `topK` gives its indices even if no output is named for them.
pub(crate) fn eval(layer: &Layer, inputs: &[Tensor], cx: &mut Context) -> Option<Result<Vec<Tensor>, LayerError>> {
    Some(match layer {
        // Elementwise.
        Layer::Activation(p) => return elementwise::activation(p, inputs),
        Layer::Unary(p) => elementwise::unary(p, inputs),
        Layer::Clip(p) => elementwise::clip(p, inputs),
        Layer::ClampedReLu(p) => elementwise::clamped_relu(p, inputs),
        Layer::Gelu(p) => elementwise::gelu(p, inputs),
        Layer::Ceil(_) => map(inputs, f32::ceil),
        Layer::Floor(_) => map(inputs, f32::floor),
        Layer::Sign(_) => elementwise::sign(inputs),
        Layer::Round(_) => elementwise::round(inputs, cx),
        Layer::Exp2(_) => map(inputs, f32::exp2),
        Layer::Sin(_) => map_f64(inputs, f64::sin),
        Layer::Cos(_) => map_f64(inputs, f64::cos),
        Layer::Tan(_) => map_f64(inputs, f64::tan),
        Layer::Asin(_) => map_f64(inputs, f64::asin),
        Layer::Acos(_) => map_f64(inputs, f64::acos),
        Layer::Atan(_) => map_f64(inputs, f64::atan),
        Layer::Sinh(_) => map_f64(inputs, f64::sinh),
        Layer::Cosh(_) => map_f64(inputs, f64::cosh),
        Layer::Tanh(_) => map(inputs, f32::tanh),
        Layer::Asinh(_) => map_f64(inputs, f64::asinh),
        Layer::Acosh(_) => map_f64(inputs, f64::acosh),
        Layer::Atanh(_) => map_f64(inputs, f64::atanh),
        Layer::Erf(_) => map_f64(inputs, elementwise::erf),
        Layer::LogicalNot(_) => map(inputs, |v| f32::from(u8::from(v == 0.0))),

        // Several inputs, broadcast.
        Layer::Add(p) => broadcast::fold_or(inputs, p.alpha, cx, |a, b| a + b),
        Layer::Multiply(p) => broadcast::fold_or(inputs, p.alpha, cx, |a, b| a * b),
        Layer::Average(_) => broadcast::average(inputs, cx),
        Layer::Max(_) | Layer::MaxBroadcastable(_) => broadcast::max(inputs, cx),
        Layer::Min(_) | Layer::MinBroadcastable(_) => broadcast::min(inputs, cx),
        Layer::Dot(p) => broadcast::dot(p, inputs, cx),
        Layer::AddBroadcastable(_) => broadcast::fold(inputs, cx, |a, b| a + b),
        Layer::MultiplyBroadcastable(_) => broadcast::fold(inputs, cx, |a, b| a * b),
        Layer::SubtractBroadcastable(_) => broadcast::binary(inputs, cx, |a, b| a - b),
        Layer::DivideBroadcastable(_) => broadcast::binary(inputs, cx, |a, b| a / b),
        Layer::FloorDivBroadcastable(_) => broadcast::binary(inputs, cx, |a, b| (a / b).floor()),
        Layer::PowBroadcastable(_) => broadcast::binary(inputs, cx, f32::powf),
        Layer::ModBroadcastable(_) => broadcast::modulo(inputs, cx),
        Layer::Equal(p) => broadcast::compare(inputs, p.alpha, cx, |a, b| a == b),
        Layer::NotEqual(p) => broadcast::compare(inputs, p.alpha, cx, |a, b| a != b),
        Layer::LessThan(p) => broadcast::compare(inputs, p.alpha, cx, |a, b| a < b),
        Layer::LessEqual(p) => broadcast::compare(inputs, p.alpha, cx, |a, b| a <= b),
        Layer::GreaterThan(p) => broadcast::compare(inputs, p.alpha, cx, |a, b| a > b),
        Layer::GreaterEqual(p) => broadcast::compare(inputs, p.alpha, cx, |a, b| a >= b),
        Layer::LogicalOr(_) => broadcast::logical(inputs, cx, |a, b| a || b),
        Layer::LogicalXor(_) => broadcast::logical(inputs, cx, |a, b| a != b),
        Layer::LogicalAnd(_) => broadcast::logical(inputs, cx, |a, b| a && b),
        Layer::WhereBroadcastable(_) => broadcast::choose(inputs, cx),

        // Reductions.
        Layer::Reduce(p) => reduce::reduce(p, inputs, cx),
        Layer::ReduceL1(p) => reduce::reduce_nd(&p.axes, p.keep_dims, p.reduce_all, inputs, reduce::l1, cx),
        Layer::ReduceL2(p) => reduce::reduce_nd(&p.axes, p.keep_dims, p.reduce_all, inputs, reduce::l2, cx),
        Layer::ReduceMax(p) => reduce::reduce_nd(&p.axes, p.keep_dims, p.reduce_all, inputs, reduce::max, cx),
        Layer::ReduceMin(p) => reduce::reduce_nd(&p.axes, p.keep_dims, p.reduce_all, inputs, reduce::min, cx),
        Layer::ReduceSum(p) => reduce::reduce_nd(&p.axes, p.keep_dims, p.reduce_all, inputs, reduce::sum, cx),
        Layer::ReduceProd(p) => reduce::reduce_nd(&p.axes, p.keep_dims, p.reduce_all, inputs, reduce::product, cx),
        Layer::ReduceMean(p) => reduce::reduce_nd(&p.axes, p.keep_dims, p.reduce_all, inputs, reduce::mean, cx),
        Layer::ReduceLogSum(p) => reduce::reduce_nd(&p.axes, p.keep_dims, p.reduce_all, inputs, reduce::log_sum, cx),
        Layer::ReduceSumSquare(p) => {
            reduce::reduce_nd(&p.axes, p.keep_dims, p.reduce_all, inputs, reduce::sum_square, cx)
        }
        Layer::ReduceLogSumExp(p) => {
            reduce::reduce_nd(&p.axes, p.keep_dims, p.reduce_all, inputs, reduce::log_sum_exp, cx)
        }
        Layer::ArgMax(p) => reduce::arg(p.axis, p.remove_dim, inputs, reduce::first_max, cx),
        Layer::ArgMin(p) => reduce::arg(p.axis, p.remove_dim, inputs, reduce::first_min, cx),

        // Normalizations.
        Layer::Softmax(_) => normalize::softmax(inputs, cx),
        Layer::SoftmaxNd(p) => normalize::softmax_nd(p, inputs, cx),
        Layer::Mvn(p) => normalize::mvn(p, inputs, cx),
        Layer::L2normalize(p) => normalize::l2_normalize(p, inputs, cx),
        Layer::Lrn(p) => normalize::lrn(p, inputs, cx),

        // Parts and compositions.
        Layer::Slice(p) => slice::slice(p, inputs),
        Layer::SliceStatic(p) => slice::slice_static(p, inputs, cx),
        Layer::SliceDynamic(p) => slice::slice_dynamic(p, inputs, cx),
        Layer::SliceBySize(p) => slice::slice_by_size(p, inputs),
        Layer::Crop(p) => slice::crop(p, inputs),
        Layer::Split(p) => slice::split(p, inputs, cx),
        Layer::SplitNd(p) => slice::split_nd(p, inputs, cx),
        Layer::Concat(p) => slice::concat(p, inputs, cx),
        Layer::ConcatNd(p) => slice::concat_nd(p, inputs, cx),
        Layer::Stack(p) => slice::stack(p, inputs, cx),
        Layer::Tile(p) => slice::tile(p, inputs, cx),
        Layer::SequenceRepeat(p) => slice::sequence_repeat(p, inputs, cx),
        Layer::Reverse(p) => slice::reverse(p, inputs),
        Layer::ReverseSeq(p) => slice::reverse_seq(p, inputs),
        Layer::SlidingWindows(p) => slice::sliding_windows(p, inputs, cx),

        // Values by index.
        Layer::Gather(p) => gather::gather(p, inputs, cx),
        Layer::GatherNd(_) => gather::gather_nd(inputs, cx),
        Layer::GatherAlongAxis(p) => gather::gather_along_axis(p, inputs, cx),
        Layer::Scatter(p) => gather::scatter(p, inputs, cx),
        Layer::ScatterNd(p) => gather::scatter_nd(p, inputs, cx),
        Layer::ScatterAlongAxis(p) => gather::scatter_along_axis(p, inputs, cx),
        Layer::WhereNonZero(_) => gather::where_non_zero(inputs, cx),

        // Order.
        Layer::TopK(p) => sort::top_k(p, inputs, cx),
        Layer::ArgSort(p) => sort::arg_sort(p, inputs, cx),
        Layer::CumSum(p) => sort::cum_sum(p, inputs, cx),
        Layer::OneHot(p) => sort::one_hot(p, inputs, cx),
        Layer::NonMaximumSuppression(p) => nms::non_maximum_suppression(p, inputs, cx),

        // Shapes.
        Layer::Reshape(p) => shape::reshape_legacy(p, inputs, cx),
        Layer::ReshapeStatic(p) => shape::reshape_static(p, inputs, cx),
        Layer::ReshapeDynamic(_) => shape::reshape_dynamic(inputs, cx),
        Layer::ReshapeLike(_) => shape::reshape_like(inputs, cx),
        Layer::RankPreservingReshape(p) => shape::rank_preserving_reshape(p, inputs, cx),
        Layer::Flatten(p) => shape::flatten(p, inputs, cx),
        Layer::FlattenTo2D(p) => shape::flatten_to_2d(p, inputs, cx),
        Layer::Permute(p) => shape::permute(p, inputs, cx),
        Layer::Transpose(p) => shape::transpose(p, inputs),
        Layer::Squeeze(p) => shape::squeeze(p, inputs, cx),
        Layer::ExpandDims(p) => shape::expand_dims(p, inputs, cx),
        Layer::GetShape(_) => shape::get_shape(inputs),
        Layer::ReorganizeData(p) => shape::reorganize(p, inputs, cx),

        // Images of other sizes.
        Layer::Upsample(p) => resize::upsample(p, inputs, cx),
        Layer::ResizeBilinear(p) => resize::resize_bilinear(p, inputs, cx),
        Layer::CropResize(p) => resize::crop_resize(p, inputs, cx),

        // Values from parameters.
        Layer::FillLike(p) => fill::fill_like(p, inputs, cx),
        Layer::FillStatic(p) => fill::fill_static(p, inputs, cx),
        Layer::FillDynamic(p) => fill::fill_dynamic(p, inputs, cx),
        Layer::BroadcastToLike(_) => fill::broadcast_to_like(inputs, cx),
        Layer::BroadcastToStatic(p) => fill::broadcast_to_static(p, inputs, cx),
        Layer::BroadcastToDynamic(_) => fill::broadcast_to_dynamic(inputs, cx),
        Layer::RangeStatic(p) => fill::range_static(p, inputs, cx),
        Layer::RangeDynamic(p) => fill::range_dynamic(p, inputs, cx),
        Layer::Padding(p) => fill::padding(p, inputs, cx),
        Layer::ConstantPad(p) => fill::constant_pad(p, inputs, cx),
        Layer::MatrixBandPart(p) => fill::band_part(p, inputs),
        Layer::LowerTriangular(p) => fill::lower_triangular(p, inputs),
        Layer::UpperTriangular(p) => fill::upper_triangular(p, inputs),

        // Random numbers.
        Layer::RandomNormalLike(p) => random::normal(&Shape::Like, p.seed, p.mean, p.std_dev, inputs, cx),
        Layer::RandomNormalStatic(p) => {
            random::normal(&Shape::Static(&p.output_shape), p.seed, p.mean, p.std_dev, inputs, cx)
        }
        Layer::RandomNormalDynamic(p) => random::normal(&Shape::Dynamic, p.seed, p.mean, p.std_dev, inputs, cx),
        Layer::RandomUniformLike(p) => random::uniform(&Shape::Like, p.seed, (p.min_val, p.max_val), inputs, cx),
        Layer::RandomUniformStatic(p) => {
            random::uniform(&Shape::Static(&p.output_shape), p.seed, (p.min_val, p.max_val), inputs, cx)
        }
        Layer::RandomUniformDynamic(p) => random::uniform(&Shape::Dynamic, p.seed, (p.min_val, p.max_val), inputs, cx),
        Layer::RandomBernoulliLike(p) => random::bernoulli(&Shape::Like, p.seed, p.prob, inputs, cx),
        Layer::RandomBernoulliStatic(p) => {
            random::bernoulli(&Shape::Static(&p.output_shape), p.seed, p.prob, inputs, cx)
        }
        Layer::RandomBernoulliDynamic(p) => random::bernoulli(&Shape::Dynamic, p.seed, p.prob, inputs, cx),
        Layer::CategoricalDistribution(p) => random::categorical(p, inputs, cx),

        // With weights, or in charge of other layers.
        Layer::Convolution(_)
        | Layer::Pooling(_)
        | Layer::InnerProduct(_)
        | Layer::Embedding(_)
        | Layer::Batchnorm(_)
        | Layer::Scale(_)
        | Layer::Bias(_)
        | Layer::LoadConstant(_)
        | Layer::SimpleRecurrent(_)
        | Layer::Gru(_)
        | Layer::UniDirectionalLstm(_)
        | Layer::BiDirectionalLstm(_)
        | Layer::EmbeddingNd(_)
        | Layer::BatchedMatmul(_)
        | Layer::LoadConstantNd(_)
        | Layer::LayerNormalization(_)
        | Layer::Pooling3d(_)
        | Layer::GlobalPooling3d(_)
        | Layer::Convolution3d(_)
        | Layer::Custom(_)
        | Layer::Copy(_)
        | Layer::Branch(_)
        | Layer::Loop(_)
        | Layer::LoopBreak(_)
        | Layer::LoopContinue(_) => return None,
    })
}

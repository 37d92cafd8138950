//! Layers without weights whose parameters and inputs are as data says: mostly small numbers that may fit, sometimes
//! the limits of the integers, NaN and infinities. A body for property tests and fuzz targets: include with
//! `#[path]`, beside `bytes`.

use coreml_quant::proto::activation_params::NonlinearityType;
use coreml_quant::proto::border_amounts::EdgeSizes;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::padding_layer_params::{PaddingConstant, PaddingReflection, PaddingReplication, PaddingType};
use coreml_quant::proto::*;

use super::bytes::Bytes;

/// How many kinds [`layer`] makes.
pub const KINDS: u8 = 78;

/// An input: its shape and values.
pub type Array = (Vec<usize>, Vec<f32>);

fn int(data: &mut Bytes<'_>) -> i64 {
    match data.byte() {
        small @ 0..=219 => i64::from(small % 8) - 2,
        220..=239 => i64::from(data.byte()),
        240..=247 => i64::MAX - i64::from(data.byte()),
        _ => i64::MIN + i64::from(data.byte()),
    }
}

fn float(data: &mut Bytes<'_>) -> f32 {
    const EXTREMES: [f32; 8] =
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 0.5, -0.0, 1e9];
    match data.byte() {
        small @ 0..=239 => f32::from(small % 8) - 2.0,
        other => EXTREMES[usize::from(other % 8)],
    }
}

fn list<T>(data: &mut Bytes<'_>, item: impl Fn(&mut Bytes<'_>) -> T) -> Vec<T> {
    let len = match data.byte() {
        small @ 0..=249 => small % 6,
        _ => 12,
    };
    (0..len).map(|_| item(data)).collect()
}

fn sizes(data: &mut Bytes<'_>) -> Vec<u64> {
    list(data, |data| data.size())
}

fn flag(data: &mut Bytes<'_>) -> bool {
    data.flag()
}

fn choice(data: &mut Bytes<'_>) -> i32 {
    i32::from(data.byte() % 12)
}

fn borders(data: &mut Bytes<'_>) -> Option<BorderAmounts> {
    let edges = |data: &mut Bytes<'_>| EdgeSizes { start_edge_size: data.size(), end_edge_size: data.size() };
    Some(BorderAmounts { border_amounts: list(data, edges) })
}

fn sampling(data: &mut Bytes<'_>) -> Option<SamplingMode> {
    Some(SamplingMode { sampling_method: choice(data) })
}

/// An input of one of the ranks that the format allows.
pub fn array(data: &mut Bytes<'_>) -> Array {
    let shape: Vec<usize> = (0..=data.byte() % 5)
        .map(|_| match data.byte() {
            small @ 0..=250 => usize::from(small % 4) + 1,
            _ => 0,
        })
        .collect();
    let count = shape.iter().product();
    let values = (0..count).map(|_| float(data)).collect();
    (shape, values)
}

/// A layer, how many outputs it names, and its inputs. One in two has inputs that share a shape.
pub fn case(data: &mut Bytes<'_>) -> (Layer, usize, Vec<Array>) {
    let kind = data.byte();
    let (layer, outputs) = (layer(kind, data), usize::from(data.byte() % 4));
    let inputs = usize::from(data.byte() % 8).min(3);
    let mut arrays: Vec<Array> = Vec::new();
    let alike = data.flag();
    for i in 0..inputs {
        let mut new = array(data);
        if alike && i > 0 {
            let len = arrays[0].1.len();
            new = (arrays[0].0.clone(), (0..len).map(|_| float(data)).collect());
        }
        arrays.push(new);
    }
    // Boxes and what they are cut out of have shapes that chance seldom meets.
    if let (Layer::CropResize(_), [image, boxes, ..]) = (&layer, arrays.as_mut_slice()) {
        let numbers = 4 + usize::from(data.flag());
        *image = (vec![1, 1, 1, 2, 2], (0..4).map(|_| float(data)).collect());
        *boxes = (vec![2, 1, numbers, 1, 1], (0..2 * numbers).map(|_| float(data)).collect());
    }
    (layer, outputs, arrays)
}

/// Axes in another order, most of the time.
fn order(data: &mut Bytes<'_>) -> Vec<u64> {
    if data.byte() < 64 {
        return sizes(data);
    }
    let mut order: Vec<u64> = (0..u64::from(data.byte() % 5) + 1).collect();
    let turn = usize::from(data.byte()) % order.len();
    order.rotate_left(turn);
    order
}

/// One of the layers without weights.
#[allow(clippy::too_many_lines)]
pub fn layer(kind: u8, d: &mut Bytes<'_>) -> Layer {
    macro_rules! make {
        ($variant:ident, $params:ident $(, $field:ident: $value:expr)*) => {
            Layer::$variant($params { $($field: $value),* })
        };
    }
    match kind % KINDS {
        0 => {
            let alpha = float(d);
            let beta = float(d);
            let nonlinearity_type = Some(match d.byte() % 11 {
                0 => NonlinearityType::Linear(ActivationLinear { alpha, beta }),
                1 => NonlinearityType::ReLu(ActivationReLu {}),
                2 => NonlinearityType::LeakyReLu(ActivationLeakyReLu { alpha }),
                3 => NonlinearityType::ThresholdedReLu(ActivationThresholdedReLu { alpha }),
                4 => NonlinearityType::Tanh(ActivationTanh {}),
                5 => NonlinearityType::ScaledTanh(ActivationScaledTanh { alpha, beta }),
                6 => NonlinearityType::Sigmoid(ActivationSigmoid {}),
                7 => NonlinearityType::SigmoidHard(ActivationSigmoidHard { alpha, beta }),
                8 => NonlinearityType::Elu(ActivationElu { alpha }),
                9 => NonlinearityType::Softsign(ActivationSoftsign {}),
                _ => NonlinearityType::Softplus(ActivationSoftplus {}),
            });
            make!(Activation, ActivationParams, nonlinearity_type: nonlinearity_type)
        }
        1 => {
            make!(Unary, UnaryFunctionLayerParams, r#type: choice(d), alpha: float(d), epsilon: float(d), shift: float(d), scale: float(d))
        }
        2 => make!(Clip, ClipLayerParams, min_val: float(d), max_val: float(d)),
        3 => make!(ClampedReLu, ClampedReLuLayerParams, alpha: float(d), beta: float(d)),
        4 => make!(Gelu, GeluLayerParams, mode: choice(d)),
        5 => Layer::Round(RoundLayerParams {}),
        6 => Layer::Erf(ErfLayerParams {}),
        7 => make!(Add, AddLayerParams, alpha: float(d)),
        8 => Layer::Average(AverageLayerParams {}),
        9 => Layer::Max(MaxLayerParams {}),
        10 => make!(Dot, DotProductLayerParams, cosine_similarity: d.flag()),
        11 => Layer::ModBroadcastable(ModBroadcastableLayerParams {}),
        12 => make!(LessThan, LessThanLayerParams, alpha: float(d)),
        13 => Layer::LogicalXor(LogicalXorLayerParams {}),
        14 => Layer::WhereBroadcastable(WhereBroadcastableLayerParams {}),
        15 => make!(Reduce, ReduceLayerParams, mode: choice(d), epsilon: float(d), axis: choice(d)),
        16 => make!(ReduceMax, ReduceMaxLayerParams, axes: list(d, int), keep_dims: d.flag(), reduce_all: d.flag()),
        17 => {
            make!(ReduceLogSumExp, ReduceLogSumExpLayerParams, axes: list(d, int), keep_dims: d.flag(), reduce_all: d.flag())
        }
        18 => make!(ArgMax, ArgMaxLayerParams, axis: int(d), remove_dim: d.flag()),
        19 => make!(ArgMin, ArgMinLayerParams, axis: int(d), remove_dim: d.flag()),
        20 => Layer::Softmax(SoftmaxLayerParams {}),
        21 => make!(SoftmaxNd, SoftmaxNdLayerParams, axis: int(d)),
        22 => {
            make!(Mvn, MeanVarianceNormalizeLayerParams, across_channels: d.flag(), normalize_variance: d.flag(), epsilon: float(d))
        }
        23 => make!(L2normalize, L2NormalizeLayerParams, epsilon: float(d)),
        24 => make!(Lrn, LrnLayerParams, alpha: float(d), beta: float(d), local_size: d.size(), k: float(d)),
        25 => make!(Slice, SliceLayerParams, start_index: int(d), end_index: int(d), stride: d.size(), axis: choice(d)),
        26 | 27 => {
            make!(SliceStatic, SliceStaticLayerParams, begin_ids: list(d, int), begin_masks: list(d, flag), end_ids: list(d, int), end_masks: list(d, flag), strides: list(d, int), squeeze_masks: list(d, flag))
        }
        28 => {
            make!(SliceDynamic, SliceDynamicLayerParams, begin_masks: list(d, flag), end_ids: list(d, int), end_masks: list(d, flag), strides: list(d, int), squeeze_masks: list(d, flag))
        }
        29 => make!(SliceBySize, SliceBySizeLayerParams, size: int(d), axis: int(d)),
        30 => make!(Crop, CropLayerParams, crop_amounts: borders(d), offset: sizes(d)),
        31 => make!(Split, SplitLayerParams, n_outputs: d.size()),
        32 => make!(SplitNd, SplitNdLayerParams, axis: int(d), num_splits: d.size(), split_sizes: sizes(d)),
        33 => make!(Concat, ConcatLayerParams, sequence_concat: d.flag()),
        34 => make!(ConcatNd, ConcatNdLayerParams, axis: int(d), interleave: d.flag()),
        35 => make!(Stack, StackLayerParams, axis: int(d)),
        36 => make!(Tile, TileLayerParams, reps: sizes(d)),
        37 => make!(SequenceRepeat, SequenceRepeatLayerParams, n_repetitions: d.size()),
        38 => make!(Reverse, ReverseLayerParams, reverse_dim: list(d, flag)),
        39 => make!(ReverseSeq, ReverseSeqLayerParams, batch_axis: int(d), sequence_axis: int(d)),
        40 => make!(SlidingWindows, SlidingWindowsLayerParams, axis: int(d), window_size: d.size(), step: d.size()),
        41 => make!(Gather, GatherLayerParams, axis: int(d)),
        42 => Layer::GatherNd(GatherNdLayerParams {}),
        43 => make!(GatherAlongAxis, GatherAlongAxisLayerParams, axis: int(d)),
        44 => make!(Scatter, ScatterLayerParams, axis: int(d), mode: choice(d)),
        45 => make!(ScatterNd, ScatterNdLayerParams, mode: choice(d)),
        46 => make!(ScatterAlongAxis, ScatterAlongAxisLayerParams, axis: int(d), mode: choice(d)),
        47 => Layer::WhereNonZero(WhereNonZeroLayerParams {}),
        48 => make!(TopK, TopKLayerParams, axis: int(d), k: d.size(), use_bottom_k: d.flag()),
        49 => make!(ArgSort, ArgSortLayerParams, axis: int(d), descending: d.flag()),
        50 => make!(CumSum, CumSumLayerParams, axis: int(d), exclude_final_sum: d.flag(), reverse: d.flag()),
        51 => {
            make!(OneHot, OneHotLayerParams, one_hot_vector_size: d.size(), axis: int(d), on_value: float(d), off_value: float(d))
        }
        52 => {
            make!(NonMaximumSuppression, NonMaximumSuppressionLayerParams, iou_threshold: float(d), score_threshold: float(d), max_boxes: d.size(), per_class_suppression: d.flag())
        }
        53 => make!(Reshape, ReshapeLayerParams, target_shape: list(d, int), mode: choice(d)),
        54 => make!(ReshapeStatic, ReshapeStaticLayerParams, target_shape: list(d, int)),
        55 => Layer::ReshapeDynamic(ReshapeDynamicLayerParams {}),
        56 => Layer::ReshapeLike(ReshapeLikeLayerParams {}),
        57 => make!(RankPreservingReshape, RankPreservingReshapeLayerParams, target_shape: list(d, int)),
        58 => make!(Flatten, FlattenLayerParams, mode: choice(d)),
        59 => make!(FlattenTo2D, FlattenTo2DLayerParams, axis: int(d)),
        60 => make!(Permute, PermuteLayerParams, axis: order(d)),
        61 => make!(Transpose, TransposeLayerParams, axes: order(d)),
        62 => make!(Squeeze, SqueezeLayerParams, axes: list(d, int), squeeze_all: d.flag()),
        63 => make!(ExpandDims, ExpandDimsLayerParams, axes: list(d, int)),
        64 => make!(ReorganizeData, ReorganizeDataLayerParams, mode: choice(d), block_size: d.size()),
        65 => {
            make!(Upsample, UpsampleLayerParams, scaling_factor: sizes(d), fractional_scaling_factor: list(d, float), mode: choice(d), linear_upsample_mode: choice(d))
        }
        66 => make!(ResizeBilinear, ResizeBilinearLayerParams, target_size: sizes(d), mode: sampling(d)),
        67 => {
            make!(CropResize, CropResizeLayerParams, target_size: sizes(d), normalized_coordinates: d.flag(), mode: sampling(d), box_indices_mode: Some(BoxCoordinatesMode { box_mode: choice(d) }), spatial_scale: float(d))
        }
        68 => make!(FillStatic, FillStaticLayerParams, value: float(d), target_shape: sizes(d)),
        69 => make!(FillDynamic, FillDynamicLayerParams, value: float(d)),
        70 => make!(BroadcastToStatic, BroadcastToStaticLayerParams, target_shape: sizes(d)),
        71 => {
            make!(RangeStatic, RangeStaticLayerParams, end_value: float(d), start_value: float(d), step_size_value: float(d))
        }
        72 => make!(RangeDynamic, RangeDynamicLayerParams, start_value: float(d), step_size_value: float(d)),
        73 => {
            let padding_type = match d.byte() % 4 {
                0 => None,
                1 => Some(PaddingType::Constant(PaddingConstant { value: float(d) })),
                2 => Some(PaddingType::Reflection(PaddingReflection {})),
                _ => Some(PaddingType::Replication(PaddingReplication {})),
            };
            make!(Padding, PaddingLayerParams, padding_amounts: borders(d), padding_type: padding_type)
        }
        74 => {
            make!(ConstantPad, ConstantPaddingLayerParams, value: float(d), pad_amounts: sizes(d), pad_to_given_output_size_mode: d.flag())
        }
        75 => make!(MatrixBandPart, MatrixBandPartLayerParams, num_lower: int(d), num_upper: int(d)),
        76 => {
            make!(CategoricalDistribution, CategoricalDistributionLayerParams, seed: int(d), num_samples: int(d), is_logits: d.flag(), eps: float(d), temperature: float(d))
        }
        _ => {
            make!(RandomNormalDynamic, RandomNormalDynamicLayerParams, seed: int(d), mean: float(d), std_dev: float(d))
        }
    }
}

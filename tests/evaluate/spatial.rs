//! Layers that move values about: what lies between convolutions in real networks.

use coreml_quant::proto::flatten_layer_params::FlattenOrder;
use coreml_quant::proto::pooling_layer_params::{PoolingPaddingType, PoolingType};
use coreml_quant::proto::upsample_layer_params::InterpolationMode;
use coreml_quant::proto::{FlattenLayerParams, PoolingLayerParams, UpsampleLayerParams};

use super::Tensor;

/// Joins along the third axis from the end.
pub(super) fn concat(inputs: &[&Tensor]) -> Tensor {
    let mut shape = inputs[0].shape.clone();
    let axis = shape.len() - 3;
    shape[axis] = inputs.iter().map(|input| input.shape[axis]).sum();
    let (batch, _, _) = inputs[0].around(3);
    let part = |input: &Tensor| input.values.len() / batch;
    let values = (0..batch).flat_map(|b| {
        inputs.iter().flat_map(move |input| input.values[b * part(input)..(b + 1) * part(input)].iter().copied())
    });
    Tensor::new(&shape, values.collect())
}

/// Applies a function to each height x width plane, which gives planes of another size.
fn planes(input: &Tensor, height: usize, width: usize, function: impl Fn(&[f64]) -> Vec<f64>) -> Tensor {
    let mut shape = input.shape.clone();
    let rank = shape.len();
    let plane = shape[rank - 2] * shape[rank - 1];
    shape[rank - 2..].copy_from_slice(&[height, width]);
    Tensor::new(&shape, input.values.chunks_exact(plane).flat_map(function).collect())
}

/// Pooling; what is padded counts for nothing.
pub(super) fn average_or_max(params: &PoolingLayerParams, input: &Tensor) -> Tensor {
    let is_max = params.r#type == PoolingType::Max as i32;
    let ([kernel_h, kernel_w], [stride_h, stride_w]) = (&params.kernel_size[..], &params.stride[..]) else {
        panic!("not evaluated: {params:?}");
    };
    let is_same = match &params.pooling_padding_type {
        Some(PoolingPaddingType::Same(_)) => true,
        Some(PoolingPaddingType::Valid(valid))
            if valid
                .padding_amounts
                .iter()
                .flat_map(|amounts| &amounts.border_amounts)
                .all(|edge| edge.start_edge_size + edge.end_edge_size == 0) =>
        {
            false
        }
        other => panic!("not evaluated: {other:?}"),
    };
    assert!(is_max || params.avg_pool_exclude_padding, "not evaluated: {params:?}");
    let [h, w] = input.shape[input.shape.len() - 2..] else { unreachable!() };
    let windows = |size: usize, kernel: usize, stride: usize| -> Vec<std::ops::Range<usize>> {
        let count = if is_same { size.div_ceil(stride) } else { (size - kernel) / stride + 1 };
        let padding = ((count - 1) * stride + kernel).saturating_sub(size) / 2;
        let window =
            |index: usize| (index * stride).saturating_sub(padding)..(index * stride + kernel - padding).min(size);
        (0..count).map(window).collect()
    };
    let rows = windows(h, *kernel_h as usize, *stride_h as usize);
    let columns = windows(w, *kernel_w as usize, *stride_w as usize);
    planes(input, rows.len(), columns.len(), |plane| {
        let pool = |row: &std::ops::Range<usize>, column: &std::ops::Range<usize>| {
            let values = row.clone().flat_map(|y| &plane[y * w + column.start..y * w + column.end]);
            if is_max {
                values.copied().fold(f64::NEG_INFINITY, f64::max)
            } else {
                values.sum::<f64>() / (row.len() * column.len()) as f64
            }
        };
        rows.iter().flat_map(|row| columns.iter().map(move |column| pool(row, column))).collect()
    })
}

/// Bilinear upsampling by whole factors, ends aligned; the same for both networks is all that matters here.
pub(super) fn upsample(params: &UpsampleLayerParams, input: &Tensor) -> Tensor {
    assert_eq!(params.mode, InterpolationMode::Bilinear as i32, "not evaluated");
    let [h, w] = input.shape[input.shape.len() - 2..] else { unreachable!() };
    let (height, width) = (h * params.scaling_factor[0] as usize, w * params.scaling_factor[1] as usize);
    let between = |position: usize, of: usize, size: usize| {
        let exact = position as f64 * (size - 1) as f64 / (of - 1).max(1) as f64;
        let low = exact as usize;
        (low, (low + 1).min(size - 1), exact - low as f64)
    };
    planes(input, height, width, |plane| {
        let value = |y, x| {
            let ((top, bottom, down), (left, right, across)) = (between(y, height, h), between(x, width, w));
            let row = |y: usize| plane[y * w + left] * (1.0 - across) + plane[y * w + right] * across;
            row(top) * (1.0 - down) + row(bottom) * down
        };
        (0..height).flat_map(|y| (0..width).map(move |x| value(y, x))).collect()
    })
}

/// All three of an image's axes in one, the channels.
pub(super) fn flatten(params: FlattenLayerParams, input: &Tensor) -> Tensor {
    assert_eq!(params.mode, FlattenOrder::ChannelFirst as i32, "not evaluated");
    let (batch, channels, inner) = input.around(3);
    let mut shape = input.shape.clone();
    let axis = shape.len() - 3;
    shape[axis..].copy_from_slice(&[channels * inner, 1, 1]);
    assert_eq!(batch, shape[..axis].iter().product::<usize>());
    Tensor::new(&shape, input.values.clone())
}

/// Along the channels of arrays that have no other axis but the batch.
pub(super) fn softmax(input: &Tensor) -> Tensor {
    let (_, channels, inner) = input.around(3);
    assert_eq!(inner, 1, "not evaluated");
    let normalized = |scores: &[f64]| {
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(move |power| power / sum)
    };
    Tensor::new(&input.shape, input.values.chunks_exact(channels).flat_map(normalized).collect())
}

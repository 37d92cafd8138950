//! Normalizations without weights: `softmax`, `softmaxND`, `mvn`, `l2normalize`, `lrn`.
//!
//! Sums are accumulated in float64.

use super::checks::{Outputs, around, at_least, axis, length, one, parameter, values};
use super::{Context, uncertain};
use crate::format::proto::{
    L2NormalizeLayerParams, LrnLayerParams, MeanVarianceNormalizeLayerParams, SoftmaxNdLayerParams,
};
use crate::predict::tensor::Tensor;

/// `softmax` over the channels; over the last axis of a blob that has no channels.
pub(super) fn softmax(inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let x = one(inputs)?;
    at_least(x, 0, 1)?;
    let axis = if x.ndim() < 3 {
        cx.note(uncertain::SOFTMAX);
        x.ndim() - 1
    } else {
        x.ndim() - 3
    };
    along(x, axis, cx)
}

pub(super) fn softmax_nd(params: &SoftmaxNdLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    along(x, axis("axis", params.axis, x.ndim())?, cx)
}

fn along(x: &Tensor, axis: usize, cx: &Context) -> Outputs {
    let (outer, len, inner) = around(x.shape(), axis);
    let source = values(x);
    let y = cx.tensor(x.shape(), |size| {
        let mut y = vec![0.0; size];
        for o in 0..outer {
            for i in 0..inner {
                let at = |k: usize| (o * len + k) * inner + i;
                let max = (0..len).fold(f32::NEG_INFINITY, |max, k| super::elementwise::maximum(source[at(k)], max));
                let mut sum = 0.0;
                for k in 0..len {
                    let e = f64::from(source[at(k)] - max).exp();
                    y[at(k)] = e as f32;
                    sum += e;
                }
                for k in 0..len {
                    y[at(k)] = (f64::from(y[at(k)]) / sum) as f32;
                }
            }
        }
        y
    })?;
    Ok(vec![y])
}

/// `mvn`: subtracts the mean over height and width, or over the channels as well, and divides by the deviation.
pub(super) fn mvn(params: &MeanVarianceNormalizeLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let x = one(inputs)?;
    let epsilon = f64::from(if params.epsilon == 0.0 { 1e-6 } else { params.epsilon });
    if params.normalize_variance {
        cx.note(uncertain::MVN);
    }
    blocks(x, if params.across_channels { 3 } else { 2 }, cx, |values| {
        let n = values.len() as f64;
        let mean = super::reduce::mean(values);
        let scale = if params.normalize_variance {
            let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
            1.0 / (variance + epsilon).sqrt()
        } else {
            1.0
        };
        (mean, scale)
    })
}

/// `l2normalize`: divides by `sqrt(sum of squares + epsilon)` over channels, height and width.
pub(super) fn l2_normalize(params: &L2NormalizeLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let epsilon = f64::from(if params.epsilon == 0.0 { 1e-6 } else { params.epsilon });
    blocks(one(inputs)?, 3, cx, |values| (0.0, 1.0 / (super::reduce::sum_square(values) + epsilon).sqrt()))
}

/// `(x - offset) * scale`, with an offset and a scale for each block of the last `rank` axes.
fn blocks(x: &Tensor, rank: usize, cx: &Context, f: impl Fn(&[f32]) -> (f64, f64)) -> Outputs {
    at_least(x, 0, rank)?;
    let block: usize = x.shape()[x.ndim() - rank..].iter().product();
    let source = values(x);
    let y = cx.tensor(x.shape(), |size| {
        let mut y = Vec::with_capacity(size);
        if size > 0 {
            for values in source.chunks_exact(block) {
                let (offset, scale) = f(values);
                y.extend(values.iter().map(|&v| ((f64::from(v) - offset) * scale) as f32));
            }
        }
        y
    })?;
    Ok(vec![y])
}

/// `lrn`: `x / (k + alpha / n * sum of squares)^beta` over the `n` nearest channels, fewer at the ends.
pub(super) fn lrn(params: &LrnLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let x = one(inputs)?;
    at_least(x, 0, 3)?;
    let size = length("localSize", params.local_size)?;
    if size == 0 {
        return Err(parameter("localSize", size, "at least 1"));
    }
    if size % 2 == 0 {
        cx.note(uncertain::LRN);
    }
    let k = f64::from(if params.k == 0.0 { 1.0 } else { params.k });
    let (alpha, beta) = (f64::from(params.alpha) / size as f64, f64::from(params.beta));
    let (before, after) = (size / 2, (size - 1) / 2);
    let (outer, channels, inner) = around(x.shape(), x.ndim() - 3);
    let source = values(x);
    let y = cx.tensor(x.shape(), |size| {
        let mut y = Vec::with_capacity(size);
        // One running sum of squares a pixel would lose precision; prefix sums in float64 cost one addition, too.
        let mut prefix = vec![0.0_f64; channels + 1];
        let mut sums = vec![0.0_f64; channels * inner];
        for image in source.chunks_exact((channels * inner).max(1)).take(outer) {
            for i in 0..inner {
                for c in 0..channels {
                    prefix[c + 1] = prefix[c] + f64::from(image[c * inner + i]).powi(2);
                }
                for c in 0..channels {
                    let (first, last) = (c.saturating_sub(before), c.saturating_add(after).min(channels - 1));
                    sums[c * inner + i] = prefix[last + 1] - prefix[first];
                }
            }
            y.extend(image.iter().zip(&sums).map(|(&v, sum)| (f64::from(v) / (k + alpha * sum).powf(beta)) as f32));
        }
        y
    })?;
    Ok(vec![y])
}

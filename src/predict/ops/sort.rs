//! Order: `topK`, `argSort`, `cumSum`, `oneHot`.
//!
//! Of equal values the one with the lowest index comes first, whatever the direction; NaN comes last.

use std::cmp::Ordering;

use super::checks::{Outputs, around, axis, index, length, one, one_or_two, parameter, scalar, tensor, values};
use super::{Context, uncertain};
use crate::format::proto::{ArgSortLayerParams, CumSumLayerParams, OneHotLayerParams, TopKLayerParams};
use crate::predict::tensor::Tensor;

/// An order of all floats: ascending or descending, NaN last, zeros equal.
fn compare(a: f32, b: f32, descending: bool) -> Ordering {
    let order = a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    if descending && !a.is_nan() && !b.is_nan() { order.reverse() } else { order }
}

/// Calls `f` with each line along an axis: its values, the positions of which in order, and where it starts.
fn lines(x: &Tensor, axis: usize, descending: bool, mut f: impl FnMut(&[f32], &[usize], usize, usize)) {
    let (outer, len, inner) = around(x.shape(), axis);
    let source = values(x);
    let mut line = vec![0.0; len];
    let mut order = vec![0; len];
    for o in 0..outer {
        for i in 0..inner {
            for (k, value) in line.iter_mut().enumerate() {
                *value = source[(o * len + k) * inner + i];
            }
            order.iter_mut().enumerate().for_each(|(k, position)| *position = k);
            order.sort_by(|&a, &b| compare(line[a], line[b], descending));
            f(&line, &order, o, i);
        }
    }
}

/// `topK`: the largest values along an axis, or the smallest, and where they were.
pub(super) fn top_k(params: &TopKLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let (x, k) = one_or_two(inputs)?;
    let axis = axis("axis", params.axis, x.ndim())?;
    let n = x.shape()[axis];
    let k = match k {
        Some(k) => u64::try_from(super::checks::whole(scalar(k, 1)?, n)?).unwrap_or(0),
        None => params.k,
    };
    let k = usize::try_from(k).ok().filter(|&k| k >= 1 && k <= n);
    let k = k.ok_or_else(|| parameter("K", params.k, format!("1 to {n}, the axis's length")))?;
    let mut shape = x.shape().to_vec();
    shape[axis] = k;
    let inner = around(&shape, axis).2;
    let size = cx.size(&shape)?;
    let (mut best, mut at) = (vec![0.0; size], vec![0.0; size]);
    lines(x, axis, !params.use_bottom_k, |line, order, o, i| {
        for (rank, &position) in order.iter().take(k).enumerate() {
            best[(o * k + rank) * inner + i] = line[position];
            at[(o * k + rank) * inner + i] = position as f32;
        }
    });
    Ok(vec![tensor(&shape, best)?, tensor(&shape, at)?])
}

/// `argSort`: the positions of the values in order.
pub(super) fn arg_sort(params: &ArgSortLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    let axis = axis("axis", params.axis, x.ndim())?;
    let (_, n, inner) = around(x.shape(), axis);
    let y = cx.tensor(x.shape(), |size| {
        let mut y = vec![0.0; size];
        lines(x, axis, params.descending, |_, order, o, i| {
            for (rank, &position) in order.iter().enumerate() {
                y[(o * n + rank) * inner + i] = position as f32;
            }
        });
        y
    })?;
    Ok(vec![y])
}

/// `cumSum`: running sums; without the element itself if exclusive, from the end if reversed.
pub(super) fn cum_sum(params: &CumSumLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let (x, along) = one_or_two(inputs)?;
    let axis = match along {
        Some(along) => index(scalar(along, 1)?, x.ndim())?,
        None => axis("axis", params.axis, x.ndim())?,
    };
    let (outer, n, inner) = around(x.shape(), axis);
    let source = values(x);
    let y = cx.tensor(x.shape(), |size| {
        let mut y = vec![0.0; size];
        for o in 0..outer {
            for i in 0..inner {
                let mut sum = 0.0_f64;
                for k in 0..n {
                    let at = (o * n + if params.reverse { n - 1 - k } else { k }) * inner + i;
                    let value = f64::from(source[at]);
                    y[at] = (if params.exclude_final_sum { sum } else { sum + value }) as f32;
                    sum += value;
                }
            }
        }
        y
    })?;
    Ok(vec![y])
}

/// `oneHot`: a new axis on which one position is on; none if the index is out of range.
pub(super) fn one_hot(params: &OneHotLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let (x, size) = one_or_two(inputs)?;
    let axis = axis("axis", params.axis, x.ndim() + 1)?;
    let depth = match size {
        Some(size) => usize::try_from(super::checks::whole(scalar(size, 1)?, cx.max_values)?).ok(),
        None => Some(length("oneHotVectorSize", params.one_hot_vector_size)?),
    };
    let depth = depth.filter(|&depth| depth >= 1);
    let depth = depth.ok_or_else(|| parameter("oneHotVectorSize", params.one_hot_vector_size, "at least 1"))?;
    if x.iter().any(|v| v.fract() != 0.0) {
        cx.note(uncertain::FRACTION);
    }
    let mut shape = x.shape().to_vec();
    shape.insert(axis, depth);
    let inner = around(&shape, axis).2.max(1);
    let source = values(x);
    let on = |value: f32| -> Option<usize> {
        let whole = value.is_finite().then_some(value as i64)?;
        super::checks::from_end(whole, depth).filter(|&at| at < depth)
    };
    let y = cx.tensor(&shape, |total| {
        let mut y = vec![params.off_value; total];
        for (i, &value) in source.iter().enumerate() {
            if let Some(at) = on(value) {
                y[(i / inner * depth + at) * inner + i % inner] = params.on_value;
            }
        }
        y
    })?;
    Ok(vec![y])
}

/// For [`super::nms`]: the order of scores, best first.
pub(super) fn best_first(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| compare(scores[a], scores[b], true));
    order
}

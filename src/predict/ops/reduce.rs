//! Sums and the like over axes: `reduce` of the first specifications and the `reduceX` layers of the fourth.
//!
//! Accumulated in float64 in row-major order of the reduced axes, rounded once.

use ndarray::Axis;

use super::checks::{Outputs, at_least, axes, copied, enumeration, one, parameter};
use super::{Context, uncertain};
use crate::format::proto::ReduceLayerParams;
use crate::format::proto::reduce_layer_params::{ReduceAxis, ReduceOperation};
use crate::predict::tensor::{LayerError, Tensor};

/// Reduces the values of each position to one.
type Reduction = fn(&[f32]) -> f64;

pub(super) fn sum(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v)).sum()
}

pub(super) fn mean(values: &[f32]) -> f64 {
    sum(values) / values.len() as f64
}

pub(super) fn product(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v)).product()
}

pub(super) fn sum_square(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

pub(super) fn l1(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v.abs())).sum()
}

pub(super) fn l2(values: &[f32]) -> f64 {
    sum_square(values).sqrt()
}

pub(super) fn max(values: &[f32]) -> f64 {
    f64::from(values.iter().copied().fold(f32::NEG_INFINITY, super::elementwise::maximum))
}

pub(super) fn min(values: &[f32]) -> f64 {
    f64::from(values.iter().copied().fold(f32::INFINITY, super::elementwise::minimum))
}

/// `log(sum(x))`, unlike the LOGSUM of `reduce`.
pub(super) fn log_sum(values: &[f32]) -> f64 {
    sum(values).ln()
}

/// `log(sum(exp(x)))`, shifted by the maximum.
pub(super) fn log_sum_exp(values: &[f32]) -> f64 {
    let max = max(values);
    if !max.is_finite() {
        return max;
    }
    max + values.iter().map(|&v| (f64::from(v) - max).exp()).sum::<f64>().ln()
}

/// The index of the first of the largest values; NaN counts as larger than all.
pub(super) fn first_max(values: &[f32]) -> f64 {
    let mut best = 0;
    for (i, &v) in values.iter().enumerate() {
        let largest = values[best];
        if v > largest || (v.is_nan() && !largest.is_nan()) {
            best = i;
        }
    }
    best as f64
}

/// The index of the first of the smallest values; NaN counts as smaller than all.
pub(super) fn first_min(values: &[f32]) -> f64 {
    let mut best = 0;
    for (i, &v) in values.iter().enumerate() {
        let smallest = values[best];
        if v < smallest || (v.is_nan() && !smallest.is_nan()) {
            best = i;
        }
    }
    best as f64
}

/// Reduces the marked axes, which are kept with length one or dropped.
pub(super) fn over(x: &Tensor, reduced: &[bool], keep: bool, f: impl Fn(&[f32]) -> f64, cx: &Context) -> Outputs {
    let kept = |axis: &usize| !reduced.get(*axis).copied().unwrap_or(false);
    let shape: Vec<usize> = x
        .shape()
        .iter()
        .enumerate()
        .filter(|(axis, _)| keep || kept(axis))
        .map(|(axis, &len)| if kept(&axis) { len } else { 1 })
        .collect();
    let count: usize = x.shape().iter().enumerate().filter(|(axis, _)| !kept(axis)).map(|(_, &len)| len).product();
    let y = cx.tensor(&shape, |size| {
        if count == 0 {
            return vec![f(&[]) as f32; size];
        }
        let order: Vec<usize> = (0..x.ndim()).filter(kept).chain((0..x.ndim()).filter(|axis| !kept(axis))).collect();
        let moved = copied(x.view().permuted_axes(order));
        let values = moved.as_slice().unwrap_or_default();
        values.chunks_exact(count).map(|values| f(values) as f32).collect()
    })?;
    Ok(vec![y])
}

/// A `reduceX` layer.
pub(super) fn reduce_nd(list: &[i64], keep: bool, all: bool, inputs: &[Tensor], f: Reduction, cx: &Context) -> Outputs {
    let x = one(inputs)?;
    let reduced = if all || list.is_empty() { vec![true; x.ndim()] } else { axes("axes", list, x.ndim())? };
    not_empty(x, &reduced)?;
    over(x, &reduced, keep, f, cx)
}

/// `argMax` and `argMin`.
pub(super) fn arg(axis: i64, remove: bool, inputs: &[Tensor], f: fn(&[f32]) -> f64, cx: &Context) -> Outputs {
    let x = one(inputs)?;
    let reduced = axes("axis", &[axis], x.ndim())?;
    not_empty(x, &reduced)?;
    over(x, &reduced, !remove, f, cx)
}

/// `reduce`, whose axes count from the end and are kept.
pub(super) fn reduce(params: &ReduceLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let x = one(inputs)?;
    let axis = enumeration::<ReduceAxis>("axis", params.axis)?;
    let (from, to) = match axis {
        ReduceAxis::Chw => (3, 1),
        ReduceAxis::Hw => (2, 1),
        ReduceAxis::C => (3, 3),
        ReduceAxis::H => (2, 2),
        ReduceAxis::W => (1, 1),
    };
    at_least(x, 0, from)?;
    let mut reduced = vec![false; x.ndim()];
    reduced[x.ndim() - from..=x.ndim() - to].fill(true);
    not_empty(x, &reduced)?;
    let epsilon = f64::from(if params.epsilon == 0.0 { 1e-6 } else { params.epsilon });
    let operation = enumeration("mode", params.mode)?;
    let f: Reduction = match operation {
        ReduceOperation::Sum => sum,
        ReduceOperation::Avg => mean,
        ReduceOperation::Prod => product,
        ReduceOperation::Logsum => {
            let f = |values: &[f32]| values.iter().map(|&v| (f64::from(v) + epsilon).ln()).sum();
            return over(x, &reduced, true, f, cx);
        }
        ReduceOperation::Sumsquare => sum_square,
        ReduceOperation::L1 => l1,
        ReduceOperation::L2 => l2,
        ReduceOperation::Max => max,
        ReduceOperation::Min => min,
        ReduceOperation::Argmax => {
            if from != to {
                return Err(parameter("axis", axis, "C, H or W for ARGMAX"));
            }
            first_max
        }
    };
    if operation == ReduceOperation::Argmax {
        let equal = x.lanes(Axis(x.ndim() - from)).into_iter().any(|lane| {
            let top = lane.iter().copied().fold(f32::NEG_INFINITY, super::elementwise::maximum);
            lane.iter().filter(|&&v| v == top).count() > 1
        });
        if equal {
            cx.note(uncertain::ARGMAX);
        }
    }
    over(x, &reduced, true, f, cx)
}

/// Nothing can be said of no values.
fn not_empty(x: &Tensor, reduced: &[bool]) -> Result<(), LayerError> {
    if x.shape().iter().zip(reduced).any(|(&len, &reduced)| reduced && len == 0) {
        return Err(LayerError::InputShape {
            input: 0,
            found: x.shape().to_vec(),
            expected: "at least one value along the axes".into(),
        });
    }
    Ok(())
}

//! Values from parameters: fills, ranges, repeated blobs, padding, triangles.

use ndarray::{ArcArray, Axis, IxDyn, Slice};

use super::broadcast::broadcast_to;
use super::checks::{
    Outputs, at_least, count, dims, one, one_or_two, parameter, scalar, tensor, two, values, whole_numbers,
};
use super::slice::borders;
use super::{Context, checks};
use crate::format::proto::padding_layer_params::PaddingType;
use crate::format::proto::{
    BroadcastToStaticLayerParams, ConstantPaddingLayerParams, FillDynamicLayerParams, FillLikeLayerParams,
    FillStaticLayerParams, LowerTriangularLayerParams, MatrixBandPartLayerParams, PaddingLayerParams,
    RangeDynamicLayerParams, RangeStaticLayerParams, UpperTriangularLayerParams,
};
use crate::predict::tensor::{LayerError, Tensor};

/// A shape that an input holds.
pub(super) fn shape_of(x: &Tensor, input: usize) -> Result<Vec<usize>, LayerError> {
    dims("the shape", &whole_numbers(x, input)?)
}

fn filled(shape: &[usize], value: f32, cx: &Context) -> Outputs {
    Ok(vec![cx.tensor(shape, |size| vec![value; size])?])
}

pub(super) fn fill_like(params: &FillLikeLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    filled(one(inputs)?.shape(), params.value, cx)
}

pub(super) fn fill_static(params: &FillStaticLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    count(inputs, 0..=0, "no input")?;
    filled(&dims("targetShape", &params.target_shape)?, params.value, cx)
}

pub(super) fn fill_dynamic(params: &FillDynamicLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    filled(&shape_of(one(inputs)?, 0)?, params.value, cx)
}

pub(super) fn broadcast_to_like(inputs: &[Tensor], cx: &Context) -> Outputs {
    let (x, like) = two(inputs)?;
    broadcast_to(x, like.shape(), cx)
}

pub(super) fn broadcast_to_static(params: &BroadcastToStaticLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    broadcast_to(one(inputs)?, &dims("targetShape", &params.target_shape)?, cx)
}

pub(super) fn broadcast_to_dynamic(inputs: &[Tensor], cx: &Context) -> Outputs {
    let (x, shape) = two(inputs)?;
    broadcast_to(x, &shape_of(shape, 1)?, cx)
}

/// `start`, `start + step` and so on, before `end`.
fn range(start: f32, end: f32, step: f32, cx: &Context) -> Outputs {
    let (start, end, step) = (f64::from(start), f64::from(end), f64::from(step));
    let count = ((end - start) / step).ceil();
    if step == 0.0 || !count.is_finite() {
        return Err(parameter("stepSizeValue", step, format!("a step that leads from {start} to {end}")));
    }
    let y = cx.tensor(&[count.max(0.0) as usize], |size| (0..size).map(|i| (start + i as f64 * step) as f32).collect());
    Ok(vec![y?])
}

pub(super) fn range_static(params: &RangeStaticLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    count(inputs, 0..=0, "no input")?;
    range(params.start_value, params.end_value, params.step_size_value, cx)
}

/// `rangeDynamic`: the inputs are the end, the start and the step; the last two may be parameters.
pub(super) fn range_dynamic(params: &RangeDynamicLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let inputs = count(inputs, 1..=3, "one to three")?;
    let or = |at: usize, value| inputs.get(at).map_or(Ok(value), |x| scalar(x, at));
    range(or(1, params.start_value)?, or(0, 0.0)?, or(2, params.step_size_value)?, cx)
}

/// `padding`: on height and width, by a constant, by reflection without the edge itself, or by repeating the edge.
pub(super) fn padding(params: &PaddingLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    at_least(x, 0, 2)?;
    let amounts = borders(params.padding_amounts.as_ref())?;
    let Some(kind) = &params.padding_type else {
        return Err(parameter("PaddingType", "not set", "constant, reflection or replication"));
    };
    let mut pairs = vec![(0, 0); x.ndim() - 2];
    pairs.extend(amounts);
    if let PaddingType::Constant(constant) = kind {
        return padded(x, &pairs, constant.value, cx);
    }
    cx.size(&padded_shape(x, &pairs))?;
    let mut y = x.clone();
    for (axis, &(before, after)) in pairs.iter().enumerate().skip(x.ndim() - 2) {
        if (before, after) == (0, 0) {
            continue;
        }
        let n = x.shape()[axis];
        let reflects = matches!(kind, PaddingType::Reflection(_));
        let most = if reflects {
            n.saturating_sub(1)
        } else if n == 0 {
            0
        } else {
            usize::MAX
        };
        if before > most || after > most {
            return Err(parameter("paddingAmounts", (before, after), format!("at most {most} on an axis of {n}")));
        }
        let last = n - 1;
        let source: Vec<usize> = (0..before)
            .map(|i| if reflects { before - i } else { 0 })
            .chain(0..n)
            .chain((0..after).map(|i| if reflects { last - 1 - i } else { last }))
            .collect();
        y = y.select(Axis(axis), &source).into_shared();
    }
    Ok(vec![checks::standard(y)])
}

fn padded_shape(x: &Tensor, pairs: &[(usize, usize)]) -> Vec<usize> {
    x.shape()
        .iter()
        .zip(pairs)
        .map(|(&len, &(before, after))| len.saturating_add(before).saturating_add(after))
        .collect()
}

fn padded(x: &Tensor, pairs: &[(usize, usize)], value: f32, cx: &Context) -> Outputs {
    let shape = padded_shape(x, pairs);
    cx.size(&shape)?;
    let mut y = ArcArray::from_elem(IxDyn(&shape), value);
    let mut middle = y.view_mut();
    for (axis, (&len, &(before, _))) in x.shape().iter().zip(pairs).enumerate() {
        let signed = |at: usize| isize::try_from(at).unwrap_or(isize::MAX);
        middle.slice_axis_inplace(Axis(axis), Slice::new(signed(before), Some(signed(before + len)), 1));
    }
    middle.assign(x);
    Ok(vec![y])
}

/// `constantPad`: before and after each axis, or up to a size.
pub(super) fn constant_pad(params: &ConstantPaddingLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let (x, amounts) = one_or_two(inputs)?;
    let amounts = match amounts {
        Some(amounts) => dims("padAmounts", &whole_numbers(amounts, 1)?)?,
        None => dims("padAmounts", &params.pad_amounts)?,
    };
    let (pairs, rest) = amounts.as_chunks::<2>();
    if pairs.len() != x.ndim() || !rest.is_empty() {
        return Err(parameter("padAmounts", &amounts, format!("{} numbers, two an axis", 2 * x.ndim())));
    }
    let mut pads = Vec::with_capacity(pairs.len());
    for (&[before, after], &len) in pairs.iter().zip(x.shape()) {
        if !params.pad_to_given_output_size_mode {
            pads.push((before, after));
            continue;
        }
        let missing = |size: usize| {
            size.checked_sub(len)
                .ok_or_else(|| parameter("padAmounts", &amounts, format!("sizes of at least {:?}", x.shape())))
        };
        pads.push(match (before, after) {
            (0, 0) => (0, 0),
            (size, 0) => (missing(size)?, 0),
            (0, size) => (0, missing(size)?),
            _ => return Err(parameter("padAmounts", &amounts, "one size of each pair, and 0")),
        });
    }
    padded(x, &pads, params.value, cx)
}

/// Keeps the values of a matrix where `keep(row, column)` says so; the others become 0.
fn triangle(inputs: &[Tensor], keep: impl Fn(i128, i128) -> bool) -> Outputs {
    let x = one(inputs)?;
    at_least(x, 0, 2)?;
    let (rows, columns) = (x.shape()[x.ndim() - 2], x.shape()[x.ndim() - 1]);
    let mut y = values(x).into_owned();
    for (i, row) in y.chunks_exact_mut(columns.max(1)).enumerate() {
        for (j, value) in row.iter_mut().enumerate() {
            if !keep((i % rows.max(1)) as i128, j as i128) {
                *value = 0.0;
            }
        }
    }
    Ok(vec![tensor(x.shape(), y)?])
}

/// `matrixBandPart`: the diagonals from `numLower` below to `numUpper` above the main one; negative keeps all.
pub(super) fn band_part(params: &MatrixBandPartLayerParams, inputs: &[Tensor]) -> Outputs {
    let (lower, upper) = (i128::from(params.num_lower), i128::from(params.num_upper));
    triangle(inputs, |i, j| (lower < 0 || i - j <= lower) && (upper < 0 || j - i <= upper))
}

pub(super) fn lower_triangular(params: &LowerTriangularLayerParams, inputs: &[Tensor]) -> Outputs {
    triangle(inputs, |i, j| j - i <= i128::from(params.k))
}

pub(super) fn upper_triangular(params: &UpperTriangularLayerParams, inputs: &[Tensor]) -> Outputs {
    triangle(inputs, |i, j| j - i >= i128::from(params.k))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_as_many_values_as_numpy_gives() {
        let cx = &super::super::tests::context(1);
        for ((start, end, step), count) in [
            ((0.0, 5.0, 1.0), 5),
            ((0.0, 5.0, 2.0), 3),
            ((5.0, 0.0, -1.5), 4),
            ((1.0, 1.0, 1.0), 0),
            ((1.0, 0.0, 1.0), 0),
        ] {
            assert_eq!(range(start, end, step, cx).map(|y| y[0].len()), Ok(count), "{start} {end} {step}");
        }
        assert!(range(0.0, 1.0, 0.0, cx).is_err());
        assert!(range(0.0, f32::NAN, 1.0, cx).is_err());
        assert!(matches!(range(0.0, f32::MAX, 1e-30, cx), Err(LayerError::TooLarge { .. })));
    }
}

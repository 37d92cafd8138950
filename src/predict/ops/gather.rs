//! Values by index: `gather` and `scatter` in their three forms, and where values are not zero.
//!
//! Negative indices count from the end; those out of range are errors. Updates are applied one after the other, in
//! row-major order of the indices.

use super::checks::{Outputs, around, axis, enumeration, index, misfit, one, two, values};
use super::{Context, uncertain};
use crate::format::proto::{
    GatherAlongAxisLayerParams, GatherLayerParams, ScatterAlongAxisLayerParams, ScatterLayerParams, ScatterMode,
    ScatterNdLayerParams,
};
use crate::predict::tensor::{LayerError, Tensor};

/// Indices into an axis of `len`.
fn indices(x: &Tensor, len: usize, cx: &mut Context) -> Result<Vec<usize>, LayerError> {
    if x.iter().any(|v| v.fract() != 0.0) {
        cx.note(uncertain::FRACTION);
    }
    x.iter().map(|&v| index(v, len)).collect()
}

/// The offsets of the blocks that an index blob `[.., k]` names in the first `k` axes, and the size of a block.
fn offsets(data: &Tensor, at: &Tensor, cx: &mut Context) -> Result<(Vec<usize>, usize), LayerError> {
    let depth = at.shape().last().copied().unwrap_or(0);
    if depth == 0 || depth > data.ndim() {
        return Err(misfit(&[data, at], ": the last axis of the indices has to be 1 to the rank of the data"));
    }
    if at.iter().any(|v| v.fract() != 0.0) {
        cx.note(uncertain::FRACTION);
    }
    let block = data.shape().iter().skip(depth).product();
    let offsets = values(at)
        .chunks_exact(depth)
        .map(|row| {
            row.iter()
                .zip(data.shape())
                .try_fold(0, |offset, (&v, &len)| Ok(offset * len + index(v, len)?))
                .map(|offset| offset * block)
        })
        .collect::<Result<_, LayerError>>()?;
    Ok((offsets, block))
}

/// `gather`: whole slices along an axis.
pub(super) fn gather(params: &GatherLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let (data, at) = two(inputs)?;
    let axis = axis("axis", params.axis, data.ndim())?;
    let (outer, len, inner) = around(data.shape(), axis);
    let shape = replaced(data.shape(), axis, at.shape());
    cx.size(&shape)?;
    let at = indices(at, len, cx)?;
    let source = values(data);
    let y = cx.tensor(&shape, |size| {
        let mut y = Vec::with_capacity(size);
        for o in 0..outer {
            for &at in &at {
                y.extend_from_slice(&source[(o * len + at) * inner..][..inner]);
            }
        }
        y
    })?;
    Ok(vec![y])
}

/// A shape whose one axis is replaced by others.
fn replaced(shape: &[usize], axis: usize, by: &[usize]) -> Vec<usize> {
    let mut result = shape.to_vec();
    result.splice(axis..=axis, by.iter().copied());
    result
}

/// `gatherND`: blocks, named by the rows of the indices.
pub(super) fn gather_nd(inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let (data, at) = two(inputs)?;
    let (offsets, block) = offsets(data, at, cx)?;
    let depth = at.shape().last().copied().unwrap_or(0);
    let mut shape = at.shape().to_vec();
    shape.pop();
    shape.extend_from_slice(data.shape().get(depth..).unwrap_or_default());
    let source = values(data);
    let y = cx.tensor(&shape, |size| {
        let mut y = Vec::with_capacity(size);
        for offset in offsets {
            y.extend_from_slice(&source[offset..][..block]);
        }
        y
    })?;
    Ok(vec![y])
}

/// The position in `data` that each index names, along an axis; the other axes are the index's own.
fn along(data: &Tensor, at: &Tensor, axis: usize, cx: &mut Context) -> Result<Vec<usize>, LayerError> {
    let fit = at.ndim() == data.ndim()
        && at.shape().iter().zip(data.shape()).enumerate().all(|(i, (a, b))| i == axis || a == b);
    if !fit {
        return Err(misfit(&[data, at], format!(": data and indices may differ only along axis {axis}")));
    }
    let (_, len, inner) = around(data.shape(), axis);
    let row = (at.shape()[axis] * inner).max(1);
    Ok(indices(at, len, cx)?
        .into_iter()
        .enumerate()
        .map(|(i, at)| (i / row * len + at) * inner + i % inner.max(1))
        .collect())
}

pub(super) fn gather_along_axis(params: &GatherAlongAxisLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let (data, at) = two(inputs)?;
    let positions = along(data, at, axis("axis", params.axis, data.ndim())?, cx)?;
    let source = values(data);
    Ok(vec![cx.tensor(at.shape(), |_| positions.into_iter().map(|position| source[position]).collect())?])
}

/// Data, indices and updates.
fn three(inputs: &[Tensor]) -> Result<(&Tensor, &Tensor, &Tensor), LayerError> {
    super::checks::exactly::<3>(inputs, "three").map(|[data, at, updates]| (data, at, updates))
}

/// What an update does to the old value.
fn update(mode: i32) -> Result<fn(&mut f32, f32), LayerError> {
    Ok(match enumeration("mode", mode)? {
        ScatterMode::ScatterUpdate => |old, new| *old = new,
        ScatterMode::ScatterAdd => |old, new| *old += new,
        ScatterMode::ScatterSub => |old, new| *old -= new,
        ScatterMode::ScatterMul => |old, new| *old *= new,
        ScatterMode::ScatterDiv => |old, new| *old /= new,
        ScatterMode::ScatterMax => |old, new| *old = super::elementwise::maximum(*old, new),
        ScatterMode::ScatterMin => |old, new| *old = super::elementwise::minimum(*old, new),
    })
}

/// Updates blocks of the data at the given offsets.
fn updated(
    data: &Tensor,
    updates: &Tensor,
    offsets: impl Iterator<Item = usize>,
    block: usize,
    mode: i32,
    cx: &Context,
) -> Outputs {
    let update = update(mode)?;
    let new = values(updates);
    let y = cx.tensor(data.shape(), |_| {
        let mut y = values(data).into_owned();
        for (offset, new) in offsets.zip(new.chunks_exact(block.max(1))) {
            for (old, &new) in y[offset..][..block].iter_mut().zip(new) {
                update(old, new);
            }
        }
        y
    })?;
    Ok(vec![y])
}

/// `scatter`: updates whole slices along an axis.
pub(super) fn scatter(params: &ScatterLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let (data, at, updates) = three(inputs)?;
    let axis = axis("axis", params.axis, data.ndim())?;
    let shape = replaced(data.shape(), axis, at.shape());
    if updates.shape() != shape {
        return Err(misfit(&[data, at, updates], format!(": the updates need the shape {shape:?}")));
    }
    let (outer, len, inner) = around(data.shape(), axis);
    let at = indices(at, len, cx)?;
    let offsets = (0..outer).flat_map(|o| at.iter().map(move |at| (o * len + at) * inner));
    updated(data, updates, offsets, inner, params.mode, cx)
}

/// `scatterND`: updates blocks, named by the rows of the indices.
pub(super) fn scatter_nd(params: &ScatterNdLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let (data, at, updates) = three(inputs)?;
    let (offsets, block) = offsets(data, at, cx)?;
    let depth = at.shape().last().copied().unwrap_or(0);
    let mut shape = at.shape().to_vec();
    shape.pop();
    shape.extend_from_slice(data.shape().get(depth..).unwrap_or_default());
    if updates.shape() != shape && !(shape.is_empty() && updates.len() == 1) {
        return Err(misfit(&[data, at, updates], format!(": the updates need the shape {shape:?}")));
    }
    updated(data, updates, offsets.into_iter(), block, params.mode, cx)
}

pub(super) fn scatter_along_axis(params: &ScatterAlongAxisLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let (data, at, updates) = three(inputs)?;
    if at.shape() != updates.shape() {
        return Err(misfit(&[data, at, updates], ": indices and updates have to be equal"));
    }
    let positions = along(data, at, axis("axis", params.axis, data.ndim())?, cx)?;
    updated(data, updates, positions.into_iter(), 1, params.mode, cx)
}

/// `whereNonZero`: the indices of all values that are not zero, a row for each, in row-major order.
pub(super) fn where_non_zero(inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    let rows = x.iter().filter(|&&v| v != 0.0).count();
    let y = cx.tensor(&[rows, x.ndim()], |size| {
        let mut y = Vec::with_capacity(size);
        for (at, _) in values(x).iter().enumerate().filter(|(_, v)| **v != 0.0) {
            let mut rest = at;
            let start = y.len();
            for &len in x.shape().iter().rev() {
                y.push((rest % len) as f32);
                rest /= len;
            }
            y[start..].reverse();
        }
        y
    })?;
    Ok(vec![y])
}

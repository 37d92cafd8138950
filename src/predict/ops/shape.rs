//! Other shapes for the same values: reshapes, permutations, new and dropped axes, `reorganizeData`.

use super::checks::{
    Outputs, at_least, axes, axis, copied, dims, enumeration, exactly, length, one, parameter, rank, reshape, two,
    values, whole_numbers,
};
use super::{Context, uncertain};
use crate::format::proto::flatten_layer_params::FlattenOrder;
use crate::format::proto::reorganize_data_layer_params::ReorganizationType;
use crate::format::proto::reshape_layer_params::ReshapeOrder;
use crate::format::proto::{
    ExpandDimsLayerParams, FlattenLayerParams, FlattenTo2DLayerParams, PermuteLayerParams,
    RankPreservingReshapeLayerParams, ReorganizeDataLayerParams, ReshapeLayerParams, ReshapeStaticLayerParams,
    SqueezeLayerParams, TransposeLayerParams,
};
use crate::predict::tensor::{LayerError, Tensor};

/// A shape in which one dimension may be -1, which takes what is left, and zeros are copied from the input.
fn target(x: &Tensor, list: &[i64]) -> Result<Vec<usize>, LayerError> {
    let wrong = |expected: &str| parameter("targetShape", list, expected.to_owned());
    let mut shape = Vec::with_capacity(list.len());
    let mut open = None;
    for (at, &dim) in list.iter().enumerate() {
        shape.push(match dim {
            -1 if open.is_none() => {
                open = Some(at);
                1
            }
            0 => *x.shape().get(at).ok_or_else(|| wrong("a 0 only where the input has a dimension"))?,
            _ => usize::try_from(dim).map_err(|_| wrong("dimensions of at least 0, and at most one -1"))?,
        });
    }
    if let Some(open) = open {
        let known = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        let rest = known.filter(|&known| known > 0 && x.len().is_multiple_of(known)).map(|known| x.len() / known);
        shape[open] = rest.ok_or_else(|| wrong("dimensions that divide the number of values"))?;
    }
    Ok(shape)
}

pub(super) fn reshape_static(params: &ReshapeStaticLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    resized(one(inputs)?, &params.target_shape, cx)
}

pub(super) fn reshape_dynamic(inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let (x, shape) = two(inputs)?;
    resized(x, &whole_numbers(shape, 1)?, cx)
}

fn resized(x: &Tensor, list: &[i64], cx: &mut Context) -> Outputs {
    if list.contains(&0) {
        cx.note(uncertain::ZERO);
    }
    Ok(vec![reshape(x, &target(x, list)?, cx)?])
}

pub(super) fn reshape_like(inputs: &[Tensor], cx: &Context) -> Outputs {
    let (x, like) = two(inputs)?;
    Ok(vec![reshape(x, like.shape(), cx)?])
}

pub(super) fn rank_preserving_reshape(
    params: &RankPreservingReshapeLayerParams,
    inputs: &[Tensor],
    cx: &Context,
) -> Outputs {
    let x = one(inputs)?;
    if params.target_shape.len() != x.ndim() {
        return Err(parameter("targetShape", &params.target_shape, format!("{} numbers, one an axis", x.ndim())));
    }
    Ok(vec![reshape(x, &target(x, &params.target_shape)?, cx)?])
}

/// `reshape`: three numbers give channels, height and width; four the sequence as well.
pub(super) fn reshape_legacy(params: &ReshapeLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let x = one(inputs)?;
    rank(x, 0, 5)?;
    let list = dims("targetShape", &params.target_shape)?;
    let (sequence, channels, height, width) = match *list {
        [c, h, w] => (x.shape()[0], c, h, w),
        [s, c, h, w] => (s, c, h, w),
        _ => return Err(parameter("targetShape", list, "three or four numbers")),
    };
    let batch = x.shape()[1];
    let shape = [sequence, batch, channels, height, width];
    if batch != 1 {
        cx.note(uncertain::BATCH);
    }
    let same_sequence = sequence == x.shape()[0];
    match enumeration("mode", params.mode)? {
        ReshapeOrder::ChannelFirst if batch == 1 || same_sequence => Ok(vec![reshape(x, &shape, cx)?]),
        ReshapeOrder::ChannelFirst => {
            let moved = copied(x.view().permuted_axes(vec![1, 0, 2, 3, 4]));
            let moved = reshape(&moved, &[batch, sequence, channels, height, width], cx)?;
            Ok(vec![copied(moved.view().permuted_axes(vec![1, 0, 2, 3, 4]))])
        }
        ReshapeOrder::ChannelLast => {
            let moved = copied(x.view().permuted_axes(vec![1, 0, 3, 4, 2]));
            let moved = reshape(&moved, &[batch, sequence, height, width, channels], cx)?;
            Ok(vec![copied(moved.view().permuted_axes(vec![1, 0, 4, 2, 3]))])
        }
    }
}

/// `flatten`: everything into the channels.
pub(super) fn flatten(params: &FlattenLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    at_least(x, 0, 3)?;
    let channel = x.ndim() - 3;
    let mut shape = x.shape().to_vec();
    shape[channel] = x.shape()[channel..].iter().product();
    shape[channel + 1..].fill(1);
    Ok(vec![match enumeration("mode", params.mode)? {
        FlattenOrder::ChannelFirst => reshape(x, &shape, cx)?,
        FlattenOrder::ChannelLast => {
            let mut order: Vec<usize> = (0..x.ndim()).collect();
            order[channel..].rotate_left(1);
            reshape(&copied(x.view().permuted_axes(order)), &shape, cx)?
        }
    }])
}

/// `flattenTo2D`: the axes before one, and the others.
pub(super) fn flatten_to_2d(params: &FlattenTo2DLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    // The axis may lie after the last one, so that everything comes before it.
    let end = i64::try_from(x.ndim()).is_ok_and(|rank| rank == params.axis);
    let axis = if end { x.ndim() } else { axis("axis", params.axis, x.ndim())? };
    let (before, after) = x.shape().split_at(axis);
    Ok(vec![reshape(x, &[before.iter().product(), after.iter().product()], cx)?])
}

/// `permute`: sequence, channels, height and width in another order.
pub(super) fn permute(params: &PermuteLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let x = one(inputs)?;
    rank(x, 0, 5)?;
    let list: &[u64] = if params.axis.is_empty() { &[0, 1, 2, 3] } else { &params.axis };
    let order = permutation("axis", list, 4)?;
    if x.shape()[1] != 1 {
        cx.note(uncertain::BATCH);
    }
    // Among the five axes of a blob, the batch stands after the sequence and stays there.
    let place = |axis: usize| if axis == 0 { 0 } else { axis + 1 };
    let order = vec![place(order[0]), 1, place(order[1]), place(order[2]), place(order[3])];
    Ok(vec![copied(x.view().permuted_axes(order))])
}

pub(super) fn transpose(params: &TransposeLayerParams, inputs: &[Tensor]) -> Outputs {
    let x = one(inputs)?;
    Ok(vec![copied(x.view().permuted_axes(permutation("axes", &params.axes, x.ndim())?))])
}

/// Every axis once.
fn permutation(name: &'static str, list: &[u64], rank: usize) -> Result<Vec<usize>, LayerError> {
    let order = dims(name, list)?;
    let mut seen = vec![false; rank];
    let fit = order.len() == rank
        && order.iter().all(|&axis| seen.get_mut(axis).is_some_and(|seen| !std::mem::replace(seen, true)));
    if fit { Ok(order) } else { Err(parameter(name, list, format!("each of the axes 0 to {} once", rank - 1))) }
}

/// `squeeze`: drops axes of length one.
pub(super) fn squeeze(params: &SqueezeLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    let dropped = if params.squeeze_all {
        x.shape().iter().map(|&len| len == 1).collect()
    } else {
        axes("axes", &params.axes, x.ndim())?
    };
    let long = x.shape().iter().zip(&dropped).any(|(&len, &dropped)| dropped && len != 1);
    if long {
        return Err(parameter("axes", &params.axes, format!("axes of length one of {:?}", x.shape())));
    }
    let kept: Vec<usize> =
        x.shape().iter().zip(&dropped).filter(|(_, dropped)| !**dropped).map(|(&len, _)| len).collect();
    Ok(vec![reshape(x, &kept, cx)?])
}

/// `expandDims`: new axes of length one; the numbers are those of the result's axes.
pub(super) fn expand_dims(params: &ExpandDimsLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    let rank = x.ndim() + params.axes.len();
    let new = axes("axes", &params.axes, rank)?;
    let mut old = x.shape().iter();
    let shape: Vec<usize> = new.iter().filter_map(|&new| if new { Some(1) } else { old.next().copied() }).collect();
    Ok(vec![reshape(x, &shape, cx)?])
}

/// `getShape`
pub(super) fn get_shape(inputs: &[Tensor]) -> Outputs {
    let x = one(inputs)?;
    Ok(vec![super::checks::tensor(&[x.ndim()], x.shape().iter().map(|&len| len as f32).collect())?])
}

/// `reorganizeData`: blocks of pixels become channels, or channels become blocks of pixels.
///
/// With blocks of `b` by `b`, channel `(y * b + x) * C + c` of the deep form is pixel `(y, x)` of the block, channel
/// `c`; for the pixel shuffle it is channel `(c * b + y) * b + x`.
pub(super) fn reorganize(params: &ReorganizeDataLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let [x] = exactly::<1>(inputs, "one")?;
    at_least(x, 0, 3)?;
    let block = length("blockSize", params.block_size)?;
    let area = block.checked_mul(block).filter(|&area| area > 0);
    let area = area.ok_or_else(|| parameter("blockSize", params.block_size, "at least 1"))?;
    let at = x.ndim() - 3;
    let (c, h, w) = (x.shape()[at], x.shape()[at + 1], x.shape()[at + 2]);
    let mode = enumeration("mode", params.mode)?;
    let to_depth = mode == ReorganizationType::SpaceToDepth;
    let divides = if to_depth { h.is_multiple_of(block) && w.is_multiple_of(block) } else { c.is_multiple_of(area) };
    if !divides {
        let what = if to_depth { "height and width" } else { "the channels by its square" };
        return Err(parameter("blockSize", block, format!("a divisor of {what} of {:?}", x.shape())));
    }
    // The deep form has C * area channels of h by w, the flat one C channels of h * b by w * b.
    let (c, h, w) = if to_depth { (c, h / block, w / block) } else { (c / area, h, w) };
    let mut shape = x.shape().to_vec();
    let deep = |y: usize, x: usize, channel: usize| match mode {
        ReorganizationType::PixelShuffle => (channel * block + y) * block + x,
        _ => (y * block + x) * c + channel,
    };
    if to_depth {
        shape[at..].copy_from_slice(&[c.saturating_mul(area), h, w]);
    } else {
        shape[at..].copy_from_slice(&[c, h.saturating_mul(block), w.saturating_mul(block)]);
    }
    let source = values(x);
    let y = cx.tensor(&shape, |size| {
        let mut y = vec![0.0; size];
        if size == 0 {
            return y;
        }
        let image = c * area * h * w;
        for (from, to) in source.chunks_exact(image).zip(y.chunks_exact_mut(image)) {
            for channel in 0..c {
                for row in 0..h * block {
                    for column in 0..w * block {
                        let flat = (channel * h * block + row) * w * block + column;
                        let plane = deep(row % block, column % block, channel);
                        let stacked = (plane * h + row / block) * w + column / block;
                        if to_depth {
                            to[stacked] = from[flat];
                        } else {
                            to[flat] = from[stacked];
                        }
                    }
                }
            }
        }
        y
    })?;
    Ok(vec![y])
}

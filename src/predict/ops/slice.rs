//! Parts and compositions: slices, splits, concatenation, cropping, tiling, reversal, windows.
//!
//! Slices follow Python: negative indices count from the end, ranges are clamped to the axis.

use ndarray::{Array, ArrayView, Axis, IxDyn, Slice};

use super::checks::{
    Outputs, around, at_least, axis, copied, enumeration, from_end, index, length, misfit, one, one_or_two, parameter,
    rank, reshape, scalar, standard, two, values, whole_numbers,
};
use super::{Context, uncertain};
use crate::format::proto::slice_layer_params::SliceAxis;
use crate::format::proto::{
    BorderAmounts, ConcatLayerParams, ConcatNdLayerParams, CropLayerParams, ReverseLayerParams, ReverseSeqLayerParams,
    SequenceRepeatLayerParams, SliceBySizeLayerParams, SliceDynamicLayerParams, SliceLayerParams,
    SliceStaticLayerParams, SlidingWindowsLayerParams, SplitLayerParams, SplitNdLayerParams, StackLayerParams,
    TileLayerParams,
};
use crate::predict::tensor::{LayerError, Tensor};

/// Which positions of an axis are taken: `start`, `start + step` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Steps {
    start: usize,
    len: usize,
    step: i64,
}

impl Steps {
    /// `len` neighbours.
    fn run(start: usize, len: usize) -> Self {
        Self { start, len, step: 1 }
    }

    /// Python's `begin:end:step` on an axis of `n`; `None` is an open end.
    fn python(n: usize, begin: Option<i64>, end: Option<i64>, step: i64) -> Result<Self, LayerError> {
        if step == 0 {
            return Err(parameter("stride", step, "anything but 0"));
        }
        let n = n as i128;
        let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let place = |index: i64| {
            let index = i128::from(index);
            (if index < 0 { index + n } else { index }).clamp(low, high)
        };
        let (first, last) = if step > 0 { (low, high) } else { (high, low) };
        let (start, stop) = (begin.map_or(first, place), end.map_or(last, place));
        let wide = i128::from(step);
        let len = if step > 0 { (stop - start + wide - 1) / wide } else { (start - stop - wide - 1) / -wide };
        let number = |value: i128| usize::try_from(value.max(0)).unwrap_or(0);
        Ok(Self { start: number(start), len: number(len), step })
    }

    /// The same positions as ndarray takes them; they have to lie on the axis.
    fn slice(self) -> Slice {
        let Self { start, len, step } = self;
        let signed = |position: usize| isize::try_from(position).unwrap_or(isize::MAX);
        if len == 0 {
            return Slice::new(0, Some(0), 1);
        }
        let start = signed(start);
        if len == 1 {
            return Slice::new(start, Some(start + 1), 1);
        }
        // With two positions or more the step is shorter than the axis.
        let step = isize::try_from(step).unwrap_or(1);
        let last = start + signed(len - 1) * step;
        Slice::new(start.min(last), Some(start.max(last) + 1), step)
    }
}

/// The part of a blob that lies at the given positions, one entry an axis; memory is shared where that stays
/// row-major.
fn part(x: &Tensor, steps: &[Steps]) -> Tensor {
    let mut y = x.clone();
    for (axis, steps) in steps.iter().enumerate().take(x.ndim()) {
        y.slice_axis_inplace(Axis(axis), steps.slice());
    }
    standard(y)
}

/// All positions of all axes.
fn whole(x: &Tensor) -> Vec<Steps> {
    x.shape().iter().map(|&len| Steps::run(0, len)).collect()
}

/// `slice`: along channels, height or width.
pub(super) fn slice(params: &SliceLayerParams, inputs: &[Tensor]) -> Outputs {
    let x = one(inputs)?;
    let from = match enumeration("axis", params.axis)? {
        SliceAxis::ChannelAxis => 3,
        SliceAxis::HeightAxis => 2,
        SliceAxis::WidthAxis => 1,
    };
    at_least(x, 0, from)?;
    let axis = x.ndim() - from;
    let step = i64::try_from(params.stride).ok().filter(|&step| step > 0);
    let step = step.ok_or_else(|| parameter("stride", params.stride, "at least 1"))?;
    let end = (params.end_index != 0 || params.start_index >= 0).then_some(params.end_index);
    let mut steps = whole(x);
    steps[axis] = Steps::python(x.shape()[axis], Some(params.start_index), end, step)?;
    Ok(vec![part(x, &steps)])
}

/// What a strided slice says of each axis.
struct Bounds<'a> {
    begin: &'a [i64],
    end: &'a [i64],
    stride: &'a [i64],
    begin_masks: &'a [bool],
    end_masks: &'a [bool],
    squeeze_masks: &'a [bool],
}

fn strided(x: &Tensor, bounds: &Bounds<'_>, cx: &mut Context) -> Outputs {
    let of = |name, list: &[i64], axis: usize| {
        list.get(axis).copied().ok_or_else(|| parameter(name, list, format!("{} numbers, one an axis", x.ndim())))
    };
    let set = |masks: &[bool], axis: usize| masks.get(axis).copied().unwrap_or(false);
    let mut steps = Vec::with_capacity(x.ndim());
    let mut shape = Vec::with_capacity(x.ndim());
    for (axis, &n) in x.shape().iter().enumerate() {
        let begin = of("beginIds", bounds.begin, axis)?;
        let masked = set(bounds.begin_masks, axis);
        if set(bounds.squeeze_masks, axis) {
            if masked {
                cx.note(uncertain::SQUEEZE);
            }
            let at = from_end(begin, n).filter(|&at| at < n);
            let at = at.ok_or(LayerError::Index { found: begin as f64, len: n })?;
            steps.push(Steps::run(at, 1));
            continue;
        }
        let end = if set(bounds.end_masks, axis) { None } else { Some(of("endIds", bounds.end, axis)?) };
        let taken = Steps::python(n, (!masked).then_some(begin), end, of("strides", bounds.stride, axis)?)?;
        shape.push(taken.len);
        steps.push(taken);
    }
    Ok(vec![reshape(&part(x, &steps), &shape, cx)?])
}

pub(super) fn slice_static(params: &SliceStaticLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let bounds = Bounds {
        begin: &params.begin_ids,
        end: &params.end_ids,
        stride: &params.strides,
        begin_masks: &params.begin_masks,
        end_masks: &params.end_masks,
        squeeze_masks: &params.squeeze_masks,
    };
    strided(one(inputs)?, &bounds, cx)
}

/// `sliceDynamic`: the inputs after the second override the parameters.
pub(super) fn slice_dynamic(params: &SliceDynamicLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let inputs = super::checks::count(inputs, 2..=7, "two to seven")?;
    let numbers = |at: usize, list: &[i64]| inputs.get(at).map_or_else(|| Ok(list.to_vec()), |x| whole_numbers(x, at));
    let masks = |at: usize, list: &[bool]| {
        inputs.get(at).map_or_else(|| list.to_vec(), |x| x.iter().take(x.len().min(32)).map(|&v| v != 0.0).collect())
    };
    let bounds = Bounds {
        begin: &numbers(1, &[])?,
        end: &numbers(2, &params.end_ids)?,
        stride: &numbers(3, &params.strides)?,
        begin_masks: &masks(4, &params.begin_masks),
        end_masks: &masks(5, &params.end_masks),
        squeeze_masks: &masks(6, &params.squeeze_masks),
    };
    strided(&inputs[0], &bounds, cx)
}

/// `sliceBySize`: `size` neighbours from where the second input says.
pub(super) fn slice_by_size(params: &SliceBySizeLayerParams, inputs: &[Tensor]) -> Outputs {
    let (x, begin) = two(inputs)?;
    let axis = axis("axis", params.axis, x.ndim())?;
    let n = x.shape()[axis];
    let begin = index(scalar(begin, 1)?, n)?;
    let size = usize::try_from(params.size).ok().filter(|&size| size <= n - begin);
    let size = size.ok_or_else(|| parameter("size", params.size, format!("0 to {}", n - begin)))?;
    let mut steps = whole(x);
    steps[axis] = Steps::run(begin, size);
    Ok(vec![part(x, &steps)])
}

/// The amounts at the start and the end of height and width; none are zeros.
pub(super) fn borders(amounts: Option<&BorderAmounts>) -> Result<[(usize, usize); 2], LayerError> {
    let amounts = amounts.map_or(&[][..], |amounts| &amounts.border_amounts);
    let pair = |at: usize| match amounts.get(at) {
        Some(edge) => Ok((length("startEdgeSize", edge.start_edge_size)?, length("endEdgeSize", edge.end_edge_size)?)),
        None => Ok((0, 0)),
    };
    if amounts.len() > 2 {
        return Err(parameter("borderAmounts", amounts.len(), "two, for height and width"));
    }
    Ok([pair(0)?, pair(1)?])
}

/// `crop`: borders off, or the size of the second input at an offset.
pub(super) fn crop(params: &CropLayerParams, inputs: &[Tensor]) -> Outputs {
    let (x, like) = one_or_two(inputs)?;
    at_least(x, 0, 2)?;
    let borders = borders(params.crop_amounts.as_ref())?;
    let mut steps = whole(x);
    for (i, border) in borders.into_iter().enumerate() {
        let axis = x.ndim() - 2 + i;
        let n = x.shape()[axis];
        steps[axis] = if let Some(like) = like {
            at_least(like, 1, 2)?;
            let size = like.shape()[like.ndim() - 2 + i];
            let offset = length("offset", params.offset.get(i).copied().unwrap_or(0))?;
            if offset.checked_add(size).is_none_or(|end| end > n) {
                return Err(misfit(&[x, like], format!(": {size} from {offset} on is more than {n}")));
            }
            Steps::run(offset, size)
        } else {
            let rest = n.checked_sub(border.0).and_then(|rest| rest.checked_sub(border.1));
            let rest = rest.ok_or_else(|| parameter("cropAmounts", border, format!("at most {n} together")))?;
            Steps::run(border.0, rest)
        };
    }
    Ok(vec![part(x, &steps)])
}

/// Parts of the given lengths along an axis.
fn parts(x: &Tensor, axis: usize, sizes: impl IntoIterator<Item = usize>) -> Vec<Tensor> {
    let mut start = 0;
    let mut steps = whole(x);
    sizes
        .into_iter()
        .map(|size| {
            steps[axis] = Steps::run(start, size);
            start += size;
            part(x, &steps)
        })
        .collect()
}

/// The number of parts, which the layer's outputs have to match.
fn part_count(name: &'static str, count: u64, cx: &Context) -> Result<usize, LayerError> {
    let count = length(name, count)?;
    if count == 0 || count != cx.output_count {
        return Err(parameter(name, count, format!("{}, as many as there are outputs", cx.output_count)));
    }
    Ok(count)
}

/// `split`: equal parts of the channels.
pub(super) fn split(params: &SplitLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    at_least(x, 0, 3)?;
    let axis = x.ndim() - 3;
    let (n, count) = (x.shape()[axis], part_count("nOutputs", params.n_outputs, cx)?);
    if !n.is_multiple_of(count) {
        return Err(parameter("nOutputs", count, format!("a divisor of the {n} channels")));
    }
    Ok(parts(x, axis, std::iter::repeat_n(n / count, count)))
}

/// `splitND`: parts of given sizes, or as equal as they can be, the first ones longer.
pub(super) fn split_nd(params: &SplitNdLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    let axis = axis("axis", params.axis, x.ndim())?;
    let n = x.shape()[axis];
    if params.split_sizes.is_empty() {
        let count = part_count("numSplits", params.num_splits, cx)?;
        return Ok(parts(x, axis, (0..count).map(|i| n / count + usize::from(i < n % count))));
    }
    part_count("the number of splitSizes", params.split_sizes.len() as u64, cx)?;
    let sizes = super::checks::dims("splitSizes", &params.split_sizes)?;
    if sizes.iter().try_fold(0_usize, |sum, &size| sum.checked_add(size)) != Some(n) {
        return Err(parameter("splitSizes", sizes, format!("{n} in all")));
    }
    Ok(parts(x, axis, sizes))
}

/// `concat`: along the channels, or the sequence.
pub(super) fn concat(params: &ConcatLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let from = if params.sequence_concat { 5 } else { 3 };
    let rank = inputs.first().map_or(0, |x| x.ndim());
    for (i, x) in inputs.iter().enumerate() {
        at_least(x, i, from)?;
    }
    let blobs: Vec<_> = inputs.iter().collect();
    joined(&blobs, rank.saturating_sub(from), cx)
}

/// `concatND`: along any axis; interleaved, the first of each comes first, then the second of each.
pub(super) fn concat_nd(params: &ConcatNdLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let rank = inputs.iter().map(|x| x.ndim()).min().unwrap_or(0);
    let mut blobs = Vec::with_capacity(inputs.len());
    for x in inputs {
        let surplus = x.ndim() - rank;
        if surplus > 0 {
            if x.shape().iter().take(surplus).any(|&len| len != 1) {
                return Err(misfit(&inputs.iter().collect::<Vec<_>>(), ": they need the same number of axes"));
            }
            cx.note(uncertain::RANKS);
        }
        blobs.push(reshape(x, &x.shape()[surplus..], cx)?);
    }
    let blobs: Vec<_> = blobs.iter().collect();
    let axis = axis("axis", params.axis, rank)?;
    if !params.interleave {
        return joined(&blobs, axis, cx);
    }
    let Some(shape) = blobs.first().map(|x| x.shape().to_vec()) else { return joined(&blobs, axis, cx) };
    if blobs.iter().any(|x| x.shape() != shape) {
        return Err(misfit(&blobs, ": they have to be equal to be interleaved"));
    }
    let (outer, n, inner) = around(&shape, axis);
    let all: Vec<_> = blobs.iter().map(|x| values(x)).collect();
    let mut result = shape;
    result[axis] = n.saturating_mul(blobs.len());
    let y = cx.tensor(&result, |size| {
        let mut y = Vec::with_capacity(size);
        for row in 0..outer * n {
            for x in &all {
                y.extend_from_slice(&x[row * inner..][..inner]);
            }
        }
        y
    })?;
    Ok(vec![y])
}

/// Blobs one after the other along an axis.
fn joined(blobs: &[&Tensor], axis: usize, cx: &Context) -> Outputs {
    let Some(first) = blobs.first() else {
        return Err(LayerError::InputCount { found: 0, expected: "one or more" });
    };
    let mut shape = first.shape().to_vec();
    shape[axis] = 0;
    for x in blobs {
        let equal = x.ndim() == shape.len()
            && x.shape().iter().zip(&shape).enumerate().all(|(at, (a, b))| at == axis || a == b);
        if !equal {
            return Err(misfit(blobs, format!(": they may differ only along axis {axis}")));
        }
        shape[axis] = shape[axis].saturating_add(x.shape()[axis]);
    }
    cx.size(&shape)?;
    let (outer, _, inner) = around(&shape, axis);
    let all: Vec<_> = blobs.iter().map(|x| (values(x), x.shape()[axis] * inner)).collect();
    let y = cx.tensor(&shape, |size| {
        let mut y = Vec::with_capacity(size);
        for o in 0..outer {
            for (x, row) in &all {
                y.extend_from_slice(&x[o * row..][..*row]);
            }
        }
        y
    })?;
    Ok(vec![y])
}

/// `stack`: along a new axis.
pub(super) fn stack(params: &StackLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let rank = inputs.first().map_or(0, |x| x.ndim());
    let axis = axis("axis", params.axis, rank + 1)?;
    let blobs = inputs
        .iter()
        .map(|x| {
            if x.ndim() != rank {
                return Err(misfit(&inputs.iter().collect::<Vec<_>>(), ": they have to be equal"));
            }
            let mut shape = x.shape().to_vec();
            shape.insert(axis, 1);
            reshape(x, &shape, cx)
        })
        .collect::<Result<Vec<_>, _>>()?;
    joined(&blobs.iter().collect::<Vec<_>>(), axis, cx)
}

/// `tile`: as numpy's; the second input gives the repetitions if there is one.
pub(super) fn tile(params: &TileLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let (x, reps) = one_or_two(inputs)?;
    let reps = match reps {
        Some(reps) => super::checks::dims("reps", &whole_numbers(reps, 1)?)?,
        None => super::checks::dims("reps", &params.reps)?,
    };
    repeated(x, &reps, cx)
}

/// `sequenceRepeat`: the whole sequence again and again.
pub(super) fn sequence_repeat(params: &SequenceRepeatLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    rank(x, 0, 5)?;
    let count = length("nRepetitions", params.n_repetitions.max(1))?;
    repeated(x, &[count, 1, 1, 1, 1], cx)
}

fn repeated(x: &Tensor, reps: &[usize], cx: &Context) -> Outputs {
    let rank = x.ndim().max(reps.len());
    if rank > super::checks::MAX_RANK {
        return Err(parameter("reps", reps.len(), format!("at most {}", super::checks::MAX_RANK)));
    }
    let mut source = vec![1; rank - x.ndim()];
    source.extend_from_slice(x.shape());
    let mut all = vec![1; rank - reps.len()];
    all.extend_from_slice(reps);
    let shape: Vec<usize> = source.iter().zip(&all).map(|(&len, &reps)| len.saturating_mul(reps)).collect();
    cx.size(&shape)?;
    let mut y = reshape(x, &source, cx)?;
    // From the last axis on: rows are copied whole as soon as they are long.
    for axis in (0..rank).rev().filter(|&axis| all[axis] != 1) {
        let mut wanted = y.shape().to_vec();
        wanted[axis] = shape[axis];
        let (outer, n, inner) = around(y.shape(), axis);
        let rows = values(&y);
        let tiled = cx.tensor(&wanted, |size| {
            let mut tiled = Vec::with_capacity(size);
            for row in rows.chunks_exact((n * inner).max(1)).take(outer) {
                for _ in 0..all[axis] {
                    tiled.extend_from_slice(row);
                }
            }
            tiled
        })?;
        y = tiled;
    }
    Ok(vec![y])
}

pub(super) fn reverse(params: &ReverseLayerParams, inputs: &[Tensor]) -> Outputs {
    let x = one(inputs)?;
    if params.reverse_dim.len() > x.ndim() {
        return Err(parameter("reverseDim", params.reverse_dim.len(), format!("{} flags, one an axis", x.ndim())));
    }
    let mut y = x.view();
    for (axis, _) in params.reverse_dim.iter().enumerate().filter(|(_, reverse)| **reverse) {
        y.invert_axis(Axis(axis));
    }
    Ok(vec![copied(y)])
}

/// `reverseSeq`: of each entry of the batch, as many elements as the second input says.
pub(super) fn reverse_seq(params: &ReverseSeqLayerParams, inputs: &[Tensor]) -> Outputs {
    let (x, lengths) = two(inputs)?;
    let batch = axis("batchAxis", params.batch_axis, x.ndim())?;
    let sequence = axis("sequenceAxis", params.sequence_axis, x.ndim())?;
    if batch == sequence {
        return Err(parameter("sequenceAxis", params.sequence_axis, "another axis than batchAxis"));
    }
    if lengths.len() != x.shape()[batch] {
        return Err(misfit(&[x, lengths], ": one length is needed for each entry of the batch"));
    }
    let n = x.shape()[sequence];
    let mut y: Array<f32, IxDyn> = x.as_standard_layout().into_owned();
    for (i, &length) in lengths.iter().enumerate() {
        let length = usize::try_from(super::checks::whole(length, n)?)
            .ok()
            .filter(|&length| length <= n)
            .ok_or(LayerError::Index { found: f64::from(length), len: n })?;
        let along = sequence - usize::from(sequence > batch);
        let range = Slice::new(0, isize::try_from(length).ok(), 1);
        let mut source: ArrayView<'_, f32, IxDyn> = x.index_axis(Axis(batch), i);
        source.slice_axis_inplace(Axis(along), range);
        source.invert_axis(Axis(along));
        let mut entry = y.index_axis_mut(Axis(batch), i);
        entry.slice_axis_inplace(Axis(along), range);
        entry.assign(&source);
    }
    Ok(vec![y.into_shared()])
}

/// `slidingWindows`: windows of an axis, each a row of a new axis after it.
pub(super) fn sliding_windows(params: &SlidingWindowsLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    let axis = axis("axis", params.axis, x.ndim())?;
    let n = x.shape()[axis];
    let (size, step) = (length("windowSize", params.window_size)?, length("step", params.step)?);
    if size == 0 || size > n {
        return Err(parameter("windowSize", size, format!("1 to {n}, the axis's length")));
    }
    if step == 0 {
        return Err(parameter("step", step, "at least 1"));
    }
    let count = (n - size) / step + 1;
    let mut shape = x.shape().to_vec();
    shape[axis] = count;
    shape.insert(axis + 1, size);
    let (outer, _, inner) = around(x.shape(), axis);
    let source = values(x);
    let y = cx.tensor(&shape, |total| {
        let mut y = Vec::with_capacity(total);
        for o in 0..outer {
            for window in 0..count {
                y.extend_from_slice(&source[(o * n + window * step) * inner..][..size * inner]);
            }
        }
        y
    })?;
    Ok(vec![y])
}

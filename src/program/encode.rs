//! From the values of a weight to the parameters of a compressed form.
//!
//! In two steps: [`prepare`] reads the values once and finds what decides about the form (scales, masks, whether they fit
//! at all), [`produce`] makes the parameters when they are written. Arithmetic is that of the kernels:
//! [`shift_scale`](crate::kernels::shift_scale), [`prune`](crate::kernels::prune), [`kmeans`](crate::kernels::kmeans).
//! Entries of tables are rounded to the weight's type before codes are chosen, so that no value has a code that is not
//! its nearest.

use bytes::Bytes;
use rayon::prelude::*;

use super::evaluate;
use super::form::Form;
use super::recipe::{Kind, Pruning, PruningRule, Table};
use super::value::{Tensor, TensorSpec};
use crate::error::{QuantizeError, WeightProblem};
use crate::format::dtype::Dtype;
use crate::kernels::boxes::Boxes;
use crate::kernels::errors::{self, ErrorSums};
use crate::kernels::kmeans::{self, Clusters, Strategy};
use crate::kernels::prune::{self, Mask, Rule};
use crate::kernels::shift_scale::{self, Grid, Step};
use crate::kernels::{NonFinite, float16, pack, pack_lsb};

/// A weight whose form is known.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) form: Form,
    work: Work,
}

#[derive(Clone, Debug)]
enum Work {
    /// The values as they are, or as float16.
    Values,
    Linear(Grid, Vec<Step>),
    Table(Table),
    Sparse(Mask),
}

/// Why the values of a weight do not fit a form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unfit {
    /// One is infinite, the first at an index.
    Infinite { index: usize },
    /// One is beyond float16, the first at an index.
    BeyondFloat16 { index: usize },
    /// A scale is beyond the weight's type, or too small for it.
    Scale,
    /// Too few would become zero.
    NotSparse,
    /// Blocks are longer than half of the axis.
    LongBlocks,
}

/// Makes a table of 2^nbits entries and one code for each of the values.
pub(crate) type CustomTable<'a> = dyn Fn(&[f32]) -> Result<(Vec<f32>, Vec<u8>), QuantizeError> + Sync + 'a;

fn is_half(spec: &TensorSpec) -> bool {
    spec.dtype == Dtype::Float16
}

/// Finds the form for the values of a weight; `block` is the box of values that share a scale or a table.
///
/// # Errors
/// A value that is NaN.
pub(crate) fn prepare(kind: Kind, values: &Tensor, block: Vec<usize>) -> Result<Result<Prepared, Unfit>, NonFinite> {
    let half = is_half(&values.spec);
    let (form, work) = match kind {
        Kind::Linear { grid, least_squares } => {
            let Some(boxes) = Boxes::new(&values.spec.shape, &block) else { return Ok(Err(Unfit::Scale)) };
            let ranges = match shift_scale::ranges(&values.bytes, half, &boxes) {
                Ok(ranges) => ranges,
                Err(found) => return first_nan(values).map_or_else(|| Ok(Err(unfit(found))), Err),
            };
            let Ok(mut steps) = shift_scale::steps(&ranges, half, grid) else { return Ok(Err(Unfit::Scale)) };
            if least_squares {
                shift_scale::least_squares(&values.bytes, half, &boxes, grid, &mut steps);
            }
            (Form::linear(grid, block), Work::Linear(grid, steps))
        }
        Kind::Table { nbits, table } => {
            if let Some(found) = first_non_finite(values) {
                return first_nan(values).map_or_else(|| Ok(Err(unfit(found))), Err);
            }
            (Form::Table { nbits, block }, Work::Table(table))
        }
        Kind::Prune(pruning) => {
            if let Some(found) = first_non_finite(values) {
                return first_nan(values).map_or_else(|| Ok(Err(unfit(found))), Err);
            }
            match mask(pruning, values) {
                Ok(mask) => (Form::Sparse { ones: mask.ones }, Work::Sparse(mask)),
                Err(unfit) => return Ok(Err(unfit)),
            }
        }
        Kind::Float16 => {
            if let Some(found) = first_nan(values) {
                return Err(found);
            }
            let largest = half::f16::MAX.to_f32();
            let beyond = |&bytes: &[u8; 4]| {
                let value = f32::from_le_bytes(bytes);
                value.is_finite() && float16::rounded(value).abs() > largest
            };
            let singles = if half { &[] } else { values.bytes.as_chunks::<4>().0 };
            if let Some(index) = singles.par_iter().position_first(beyond) {
                return Ok(Err(Unfit::BeyondFloat16 { index }));
            }
            (Form::Float16, Work::Values)
        }
        Kind::Dequantize | Kind::None => (Form::Dense, Work::Values),
    };
    Ok(Ok(Prepared { form, work }))
}

fn unfit(found: NonFinite) -> Unfit {
    debug_assert!(found.value.is_infinite());
    Unfit::Infinite { index: found.index }
}

fn mask(pruning: Pruning, values: &Tensor) -> Result<Mask, Unfit> {
    let (half, shape) = (is_half(&values.spec), &values.spec.shape);
    let along = |axis: usize, size: usize| {
        if shape.get(axis).is_some_and(|len| 2 * size <= *len) { Ok(()) } else { Err(Unfit::LongBlocks) }
    };
    let of = |magnitudes: &[u8], rule| prune::mask(&values.bytes, magnitudes, half, shape, rule);
    let by_share = |magnitudes: &[u8], share: f64| {
        if share == 0.0 {
            // Nothing is pruned, also not the smallest.
            return of(magnitudes, Rule::Above(-1.0));
        }
        of(magnitudes, Rule::Above(prune::percentile(magnitudes, half, share)))
    };
    match pruning.rule {
        PruningRule::Sparsity { share, block: None } => Ok(by_share(&values.bytes, share)),
        PruningRule::Sparsity { share, block: Some((size, axis)) } => {
            along(axis, size)?;
            Ok(by_share(&prune::block_norms(&values.bytes, half, shape, size, axis), share))
        }
        PruningRule::Threshold { threshold, minimum_share } => {
            let mask = of(&values.bytes, Rule::Above(threshold));
            let zeros = values.spec.len() - mask.ones;
            if (zeros as f64) < minimum_share * values.spec.len() as f64 { Err(Unfit::NotSparse) } else { Ok(mask) }
        }
        PruningRule::SmallestOf { n, m, axis } => {
            along(axis, m)?;
            Ok(of(&values.bytes, Rule::SmallestOf { n, m, axis }))
        }
    }
}

/// The first value for which `is` holds, by its bits without the sign.
fn first(values: &Tensor, half: fn(u16) -> bool, single: fn(u32) -> bool) -> Option<NonFinite> {
    let bytes = &values.bytes[..];
    let index = if is_half(&values.spec) {
        let halves = bytes.as_chunks::<2>().0;
        halves.par_iter().position_first(|&bytes| half(u16::from_le_bytes(bytes) & 0x7FFF))?
    } else {
        let singles = bytes.as_chunks::<4>().0;
        singles.par_iter().position_first(|&bytes| single(u32::from_le_bytes(bytes) & 0x7FFF_FFFF))?
    };
    let size = usize::from(values.spec.dtype.bits()) / 8;
    let mut value = [0.0];
    float16::floats(&bytes[index * size..][..size], is_half(&values.spec), &mut value);
    Some(NonFinite { index, value: value[0] })
}

fn first_non_finite(values: &Tensor) -> Option<NonFinite> {
    first(values, |bits| bits >= 0x7C00, |bits| bits >= 0x7F80_0000)
}

fn first_nan(values: &Tensor) -> Option<NonFinite> {
    first(values, |bits| bits > 0x7C00, |bits| bits > 0x7F80_0000)
}

/// The parameters in the order of [`Form::parameters`], and the errors that storing makes, if they are to be measured.
pub(crate) fn produce(
    prepared: &Prepared,
    values: &Tensor,
    has_inputs: bool,
    custom: Option<&CustomTable<'_>>,
    measure: bool,
) -> Result<(Vec<Bytes>, Option<ErrorSums>), QuantizeError> {
    let half = is_half(&values.spec);
    let shape = &values.spec.shape;
    let (parameters, decoded) = match (&prepared.work, &prepared.form) {
        (Work::Linear(grid, steps), Form::Linear { dtype, has_offset, block }) => {
            let boxes = Boxes::new(shape, block).ok_or_else(too_large)?;
            let mut codes = vec![0; dtype.byte_len(values.spec.len()).ok_or_else(too_large)?];
            shift_scale::encode(&values.bytes, half, &boxes, steps, *grid, &mut codes);
            let scales: Vec<f32> = steps.iter().map(|step| step.scale).collect();
            let mut scale = vec![0; scales.len() * if half { 2 } else { 4 }];
            float16::to_bytes(&scales, half, &mut scale);
            let offsets: Vec<u8> = steps.iter().map(|step| step.zero_point as i32 as u8).collect();
            let mut offset = vec![0; pack::packed_len(offsets.len(), grid.nbits)];
            pack_lsb::pack(&offsets, grid.nbits, &mut offset);
            let mut parameters = vec![codes.into(), scale.into()];
            if *has_offset || !has_inputs {
                parameters.push(offset.into());
            }
            let counts: Vec<usize> = shape.iter().zip(block).map(|(size, block)| size / block).collect();
            let decode = |parameters: &[Bytes]| {
                let data = Tensor::new(*dtype, shape.clone(), parameters[0].clone());
                let scale = Tensor::new(values.spec.dtype, counts.clone(), parameters[1].clone());
                let offset = parameters.get(2).map(|offset| Tensor::new(*dtype, counts.clone(), offset.clone()));
                evaluate::shift_scale(&data, &scale, offset.as_ref())
            };
            let decoded = measure.then(|| decode(&parameters));
            (parameters, decoded)
        }
        (Work::Table(table), Form::Table { nbits, block }) => {
            let boxes = Boxes::new(shape, block).ok_or_else(too_large)?;
            let (indices, lut) = tables(values, &boxes, *nbits, *table, custom)?;
            let decode = || {
                let dtype = Dtype::indices(*nbits).unwrap_or(Dtype::Uint8);
                let mut of: Vec<usize> = shape.iter().zip(block).map(|(size, block)| size / block).collect();
                of.extend([1 << nbits, 1]);
                let lut = Tensor::new(values.spec.dtype, of, lut.clone());
                evaluate::table(&Tensor::new(dtype, shape.clone(), indices.clone()), &lut, None)
            };
            let decoded = measure.then(decode);
            (vec![indices, lut], decoded)
        }
        (Work::Sparse(mask), _) => {
            let kept: Bytes = prune::kept(&values.bytes, half, mask).into();
            let bits: Bytes = mask.bits.clone().into();
            let decode = || {
                let data = Tensor::new(values.spec.dtype, [mask.ones], kept.clone());
                evaluate::scatter(&data, &Tensor::new(Dtype::Uint1, shape.clone(), bits.clone()))
            };
            let decoded = measure.then(decode);
            (vec![kept, bits], decoded)
        }
        (_, Form::Float16) => {
            let source = evaluate::in_type(values, Dtype::Float16).map_err(other)?;
            let decoded = measure.then(|| evaluate::in_type(&source, values.spec.dtype));
            (vec![source.bytes], decoded)
        }
        _ => (vec![values.bytes.clone()], measure.then(|| Ok(values.clone()))),
    };
    let sums = decoded.map(|decoded| decoded.map(|decoded| distance(values, &decoded))).transpose().map_err(other)?;
    Ok((parameters, sums))
}

fn too_large() -> QuantizeError {
    QuantizeError::Other("the weight is too large to be stored".into())
}

fn other(problem: WeightProblem) -> QuantizeError {
    QuantizeError::Other(Box::new(problem))
}

/// Values at a time when errors are summed up.
const CHUNK: usize = 1 << 12;

/// How far two tensors of one type and shape are apart.
pub(crate) fn distance(original: &Tensor, decoded: &Tensor) -> ErrorSums {
    let half = is_half(&original.spec);
    let size = if half { 2 } else { 4 };
    let pieces = original.bytes.par_chunks(CHUNK * size).zip(decoded.bytes.par_chunks(CHUNK * size));
    let sums = pieces.map(|(original, decoded)| {
        let widen = |bytes: &[u8]| {
            let mut floats = [0.0; CHUNK];
            let mut words = [[0; 4]; CHUNK];
            let count = bytes.len() / size;
            float16::floats(bytes, half, &mut floats[..count]);
            for (word, value) in words.iter_mut().zip(&floats[..count]) {
                *word = value.to_le_bytes();
            }
            (words, count)
        };
        let ((original, count), (decoded, _)) = (widen(original), widen(decoded));
        errors::compare(&original[..count], &decoded[..count])
    });
    sums.collect::<Vec<_>>().into_iter().sum()
}

/// Packed indices, and the entries of all tables in the weight's type.
fn tables(
    values: &Tensor,
    boxes: &Boxes,
    nbits: u8,
    table: Table,
    custom: Option<&CustomTable<'_>>,
) -> Result<(Bytes, Bytes), QuantizeError> {
    let half = is_half(&values.spec);
    let len = values.spec.len();
    let mut floats = vec![0.0; len];
    let size = if half { 2 } else { 4 };
    floats.par_chunks_mut(CHUNK).zip(values.bytes.par_chunks(CHUNK * size)).for_each(|(out, bytes)| {
        float16::floats(bytes, half, out);
    });
    let one = |values: &[f32]| one_table(values, half, nbits, table, custom);
    let (codes, entries): (Vec<u8>, Vec<f32>) = if boxes.count() == 1 {
        let (entries, codes) = one(&floats)?;
        (codes, entries)
    } else {
        // The values of each box side by side.
        let mut groups = vec![Vec::with_capacity(len / boxes.count()); boxes.count()];
        boxes.segments(0..len, |segment| {
            let values = &floats[segment.range.clone()];
            if segment.lanes {
                for (group, &value) in groups[segment.first..].iter_mut().zip(values) {
                    group.push(value);
                }
            } else {
                groups[segment.first].extend_from_slice(values);
            }
        });
        let solved = groups.into_par_iter().map(|group| one(&group)).collect::<Vec<_>>();
        let solved = solved.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut cursors = vec![0; solved.len()];
        let mut codes = vec![0; len];
        boxes.segments(0..len, |segment| {
            for (index, code) in codes[segment.range].iter_mut().enumerate() {
                let number = if segment.lanes { segment.first + index } else { segment.first };
                *code = solved[number].1[cursors[number]];
                cursors[number] += 1;
            }
        });
        (codes, solved.into_iter().flat_map(|(entries, _)| entries).collect())
    };
    let mut lut = vec![0; entries.len() * size];
    float16::to_bytes(&entries, half, &mut lut);
    if nbits == 8 {
        return Ok((codes.into(), lut.into()));
    }
    let mut indices = vec![0; pack::packed_len(len, nbits)];
    let blocks = indices.par_chunks_mut(pack::packed_len(1 << 16, nbits)).zip(codes.par_chunks(1 << 16));
    blocks.for_each(|(out, codes)| pack_lsb::pack(codes, nbits, out));
    Ok((indices.into(), lut.into()))
}

/// The table for some values, of 2^nbits entries that the weight's type holds, and their codes.
fn one_table(
    values: &[f32],
    half: bool,
    nbits: u8,
    table: Table,
    custom: Option<&CustomTable<'_>>,
) -> Result<(Vec<f32>, Vec<u8>), QuantizeError> {
    let levels = 1_usize << nbits;
    let t = |value: f32| if half { float16::rounded(value) } else { value };
    match (table, custom) {
        (Table::Kmeans { exact }, _) => {
            let strategy = if exact { Strategy::Exact } else { Strategy::Auto };
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let solution = Clusters::new(&bytes, levels, strategy)?.solve(levels);
            let mut entries: Vec<f32> = solution.centroids.iter().map(|&entry| t(entry)).collect();
            entries.dedup();
            let mut codes = vec![0; values.len()];
            if !entries.is_empty() {
                kmeans::assign(&bytes, &entries, 8, &mut codes, false);
            }
            entries.resize(levels, 0.0);
            Ok((entries, codes))
        }
        (Table::Custom, Some(custom)) => {
            let (mut entries, codes) = custom(values)?;
            for (index, entry) in entries.iter_mut().enumerate() {
                if !t(*entry).is_finite() {
                    return Err(QuantizeError::Float16Range { index, value: *entry });
                }
                *entry = t(*entry);
            }
            if entries.len() != levels {
                return Err(QuantizeError::TableLength { found: entries.len(), expected: levels });
            }
            if codes.len() != values.len() {
                return Err(QuantizeError::CodeCount { found: codes.len(), expected: values.len() });
            }
            if let Some(index) = codes.iter().position(|&code| usize::from(code) >= levels) {
                return Err(QuantizeError::CodeRange { index, code: codes[index], nbits });
            }
            Ok((entries, codes))
        }
        (Table::Uniform | Table::Custom, _) => {
            let (low, high) =
                values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
            let last = (levels - 1) as f32;
            let span = t(high - low);
            if span == 0.0 {
                let mut entries = vec![0.0; levels];
                entries[0] = low;
                return Ok((entries, vec![0; values.len()]));
            }
            let scale = t(span / last);
            let code = |&value: &f32| t(t(t(value - low) / span) * last).round_ties_even() as u8;
            let entry = |index: usize| {
                let entry = index as f64 * f64::from(scale) + f64::from(low);
                if half { half::f16::from_f64(entry).to_f32() } else { entry as f32 }
            };
            let entries: Vec<f32> = (0..levels).map(entry).collect();
            if let Some(index) = entries.iter().position(|entry| !entry.is_finite()) {
                return Err(QuantizeError::Float16Range { index, value: entries[index] });
            }
            Ok((entries, values.iter().map(code).collect()))
        }
    }
}

//! The range of each channel, and its weights turned into codes on an evenly spaced grid.
//!
//! Arithmetic: float64. `q = round((w - bias) * (1 / scale))`, or `round((w - bias) / scale)` where the caller asks for
//! it; rounding is half to even; codes are clamped to the grid. Scale 0 gives code 0. Ranges are found by integer
//! comparison, in which -0 lies below +0 and NaN outside the infinities, so they depend on no order.

use super::dequantize::decode_row;
use super::errors::{self, ErrorSums};
use super::{BLOCK, CHUNK, Layout, NonFinite, pack, words};
use multiversion::multiversion;
use rayon::prelude::*;

/// Channels whose grids are computed together, where they are short.
const GROUP: usize = 32;

/// Smallest and largest weight of a channel, as keys that order like float32's total order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    min: i32,
    max: i32,
}

/// Its own inverse but for the type: the bits of a float32 as an integer that orders like the value.
#[inline(always)]
fn key(bits: i32) -> i32 {
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

impl Range {
    /// The range of no weights.
    const EMPTY: Self = Self { min: i32::MAX, max: i32::MIN };

    /// Smallest and largest weight; 0 and 0 for a channel without weights.
    #[inline(always)]
    pub(crate) fn bounds(self) -> (f32, f32) {
        let value = |ordered| f32::from_bits(key(ordered) as u32);
        if self.min > self.max { (0.0, 0.0) } else { (value(self.min), value(self.max)) }
    }

    #[inline(always)]
    fn merge(&mut self, other: Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The range of the weights of one channel.
    #[inline(always)]
    fn of(weights: &[[u8; 4]]) -> Self {
        let mut range = Self::EMPTY;
        for &bytes in weights {
            let weight = key(i32::from_le_bytes(bytes));
            range.merge(Self { min: weight, max: weight });
        }
        range
    }
}

/// Whether the weights of all these channels are finite.
#[inline(always)]
pub(super) fn all_finite(ranges: &[Range]) -> bool {
    // No early end: it would keep the loop from being vectorized.
    ranges.iter().fold(true, |finite, range| {
        let (min, max) = range.bounds();
        finite & min.is_finite() & max.is_finite()
    })
}

/// The values that a channel's codes stand for: `code * scale + bias`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Grid {
    /// Distance of neighbouring values, not negative.
    pub(crate) scale: f64,
    /// Value of code 0.
    pub(crate) bias: f64,
}

/// How the distance from the bias becomes a number of steps. The two differ in the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steps {
    /// Multiplied by `1 / scale`.
    Multiply,
    /// Divided by `scale`.
    Divide,
}

/// How weights are encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding {
    /// Bits of a code, 1 to 8.
    pub(crate) nbits: u8,
    /// How a number of steps is found.
    pub(crate) steps: Steps,
    /// What is measured.
    pub(crate) measure: Measure,
}

/// The code of a number of steps, between `low` and `high` (integers below 2^31): rounded half to even.
#[inline(always)]
pub(super) fn round_to_code(steps: f64, low: f64, high: f64) -> u8 {
    // Adding 1.5 * 2^52 leaves no bits for a fraction: the sum is rounded half to even, with the integer in its low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // Comparisons like these are one instruction each, and send NaN to `low`.
    let steps = if steps > low { steps } else { low };
    let steps = if steps < high { steps } else { high };
    (steps + ROUND).to_bits() as u8
}

/// `1 / scale`, or 0 where the scale is.
#[inline(always)]
pub(super) fn reciprocal(scale: f64) -> f64 {
    if scale > 0.0 { 1.0 / scale } else { 0.0 }
}

#[inline(always)]
fn value(bytes: [u8; 4]) -> f64 {
    f64::from(f32::from_le_bytes(bytes))
}

/// Encodes weights of one channel.
#[inline(always)]
fn encode_row(weights: &[[u8; 4]], grid: Grid, steps: Steps, top: f64, codes: &mut [u8]) {
    let Grid { scale, bias } = grid;
    match steps {
        Steps::Multiply => {
            let inverse = reciprocal(scale);
            for (code, &bytes) in codes.iter_mut().zip(weights) {
                *code = round_to_code((value(bytes) - bias) * inverse, 0.0, top);
            }
        }
        Steps::Divide => {
            for (code, &bytes) in codes.iter_mut().zip(weights) {
                *code = round_to_code((value(bytes) - bias) / scale, 0.0, top);
            }
        }
    }
}

/// Takes codes in order and packs them into the bytes of a block.
struct Packer<'a> {
    nbits: u8,
    /// The bytes not yet written.
    out: &'a mut [u8],
    /// Codes not yet packed. Codes of 8 bits go straight to `out`.
    staged: [u8; CHUNK + 8],
    held: usize,
}

impl<'a> Packer<'a> {
    fn new(nbits: u8, out: &'a mut [u8]) -> Self {
        Self { nbits, out, staged: [0; CHUNK + 8], held: 0 }
    }

    /// Room for the next `len` codes, at most [`CHUNK`], which the caller fills before anything else.
    #[inline(always)]
    fn next(&mut self, len: usize) -> &mut [u8] {
        if self.nbits == 8 {
            let (room, rest) = std::mem::take(&mut self.out).split_at_mut(len);
            self.out = rest;
            return room;
        }
        if self.held + len > self.staged.len() {
            self.flush();
        }
        let room = &mut self.staged[self.held..][..len];
        self.held += len;
        room
    }

    /// Packs the staged groups of 8 codes.
    #[inline(never)]
    fn flush(&mut self) {
        let full = self.held / 8 * 8;
        let (bytes, rest) = std::mem::take(&mut self.out).split_at_mut(pack::packed_len(full, self.nbits));
        pack::pack(&self.staged[..full], self.nbits, bytes);
        self.out = rest;
        self.staged.copy_within(full..self.held, 0);
        self.held -= full;
    }

    /// Packs what is left.
    fn finish(self) {
        pack::pack(&self.staged[..self.held], self.nbits, self.out);
    }
}

/// The largest code of `nbits` bits.
pub(super) fn top_code(nbits: u8) -> f64 {
    f64::from((1_u32 << nbits) - 1)
}

/// Splits a stretch of a tensor, from the weight `start` on, into (group, weights) at the ends of runs.
#[inline(always)]
pub(super) fn segments<T>(weights: &[T], start: usize, layout: Layout) -> impl Iterator<Item = (usize, &[T])> {
    let Layout { outer, count, .. } = layout;
    let inner = layout.inner.max(1);
    let run = start / inner;
    let (mut group, mut len) = (layout.group_of_run(run), inner - start % inner);
    let runs_of_slab = (outer * count).max(1);
    // Runs until this slab's groups come again from the first, and until the next slab.
    let (mut until_first, mut until_slab) = (count.max(1) - run % count.max(1), runs_of_slab - run % runs_of_slab);
    let mut rest = weights;
    std::iter::from_fn(move || {
        let (segment, after) = rest.split_at(rest.len().min(len));
        let this = group;
        group += 1;
        until_first -= 1;
        until_slab -= 1;
        if until_first == 0 {
            until_first = count;
            if until_slab == 0 {
                until_slab = runs_of_slab;
            } else {
                group -= count;
            }
        }
        (len, rest) = (inner, after);
        (!segment.is_empty()).then_some((this, segment))
    })
}

/// Widens `ranges` by the weights of a block that begins at the weight `start`.
#[multiversion(targets = "simd")]
fn range_block(weights: &[[u8; 4]], start: usize, layout: Layout, ranges: &mut [Range]) {
    for (channel, weights) in segments(weights, start, layout) {
        ranges[channel].merge(Range::of(weights));
    }
}

/// What an encoder measures besides its work, while weights and codes are in the first-level cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Nothing: all sums are 0.
    Nothing,
    /// The errors of codes with scales and biases, which are rounded to float32.
    Scaled,
    /// The errors of codes into a table, whose entries are rounded to float32.
    Tabled,
}

impl Measure {
    /// What the codes of one channel stand for.
    #[inline(always)]
    fn decode(self, codes: &[u8], grid: Grid, decoded: &mut [[u8; 4]]) {
        let Grid { scale, bias } = match self {
            Self::Scaled => Grid { scale: f64::from(grid.scale as f32), bias: f64::from(grid.bias as f32) },
            Self::Nothing | Self::Tabled => grid,
        };
        decode_row(codes, scale, bias, decoded);
    }
}

/// Encodes and packs a block that begins at the weight `start`.
#[multiversion(targets = "simd")]
fn encode_block(
    weights: &[[u8; 4]],
    start: usize,
    layout: Layout,
    grids: &[Grid],
    codes: &mut [u8],
    encoding: Encoding,
) -> ErrorSums {
    let Encoding { nbits, steps, measure } = encoding;
    let top = top_code(nbits);
    let mut packer = Packer::new(nbits, codes);
    let (mut sums, mut decoded) = (ErrorSums::default(), [[0; 4]; CHUNK]);
    for (index, weights) in weights.chunks(CHUNK).enumerate() {
        let (mut at, codes) = (0, packer.next(weights.len()));
        for (channel, weights) in segments(weights, start + index * CHUNK, layout) {
            let end = at + weights.len();
            let codes = &mut codes[at..end];
            encode_row(weights, grids[channel], steps, top, codes);
            if measure != Measure::Nothing {
                measure.decode(codes, grids[channel], &mut decoded[at..end]);
            }
            at = end;
        }
        if measure != Measure::Nothing {
            sums.merge(errors::chunk(weights, &decoded[..at]));
        }
    }
    packer.finish();
    sums
}

/// Ranges, grids and codes of a block of whole channels, which are the first axis, while they are in the cache.
/// `plan` fills in the grids of some channels, of which it gets the first one's index and the ranges; `None` ends the
/// work.
#[inline(always)]
pub(super) fn quantize_rows(
    weights: &[[u8; 4]],
    inner: usize,
    codes: &mut [u8],
    encoding: Encoding,
    mut plan: impl FnMut(usize, &[Range], &mut [Grid]) -> Option<()>,
) -> Option<ErrorSums> {
    let Encoding { nbits, steps, measure } = encoding;
    let top = top_code(nbits);
    let mut packer = Packer::new(nbits, codes);
    let (mut ranges, mut grids) = ([Range::EMPTY; GROUP], [Grid::default(); GROUP]);
    let (mut sums, mut decoded) = (ErrorSums::default(), [[0; 4]; CHUNK]);
    // Few enough that their weights are still in the first-level cache when they are encoded.
    let group = (CHUNK / inner).clamp(1, GROUP);
    for (index, weights) in weights.chunks(group * inner).enumerate() {
        let rows = weights.chunks(inner);
        let count = rows.len();
        for (range, row) in ranges.iter_mut().zip(rows) {
            *range = Range::of(row);
        }
        plan(index * group, &ranges[..count], &mut grids[..count])?;
        // One chunk of whole channels, or the chunks of one channel.
        for weights in weights.chunks(CHUNK) {
            let codes = packer.next(weights.len());
            for ((&grid, row), codes) in grids.iter().zip(weights.chunks(inner)).zip(codes.chunks_mut(inner)) {
                encode_row(row, grid, steps, top, codes);
            }
            if measure != Measure::Nothing {
                let decoded = &mut decoded[..weights.len()];
                for ((&grid, codes), decoded) in grids.iter().zip(codes.chunks(inner)).zip(decoded.chunks_mut(inner)) {
                    measure.decode(codes, grid, decoded);
                }
                sums.merge(errors::chunk(weights, decoded));
            }
        }
    }
    packer.finish();
    Some(sums)
}

/// The range of each channel.
///
/// # Errors
/// The first weight that is NaN or infinite.
pub(crate) fn ranges(values: &[u8], layout: Layout) -> Result<Vec<Range>, NonFinite> {
    let weights = words(values);
    debug_assert_eq!(weights.len(), layout.len());
    let empty = || vec![Range::EMPTY; layout.groups()];
    let ranges = if weights.len() <= BLOCK {
        let mut ranges = empty();
        range_block(weights, 0, layout, &mut ranges);
        ranges
    } else {
        let blocks = weights.par_chunks(BLOCK).enumerate();
        let partial = blocks.fold(empty, |mut ranges, (index, weights)| {
            range_block(weights, index * BLOCK, layout, &mut ranges);
            ranges
        });
        partial.reduce(empty, |mut ranges, others| {
            for (range, other) in ranges.iter_mut().zip(others) {
                range.merge(other);
            }
            ranges
        })
    };
    match NonFinite::first(if all_finite(&ranges) { &[] } else { weights }) {
        Some(error) => Err(error),
        None => Ok(ranges),
    }
}

/// Encodes finite weights on the grid of their channel and packs the codes.
pub(crate) fn encode(values: &[u8], layout: Layout, grids: &[Grid], codes: &mut [u8], encoding: Encoding) -> ErrorSums {
    let weights = words(values);
    debug_assert_eq!(weights.len(), layout.len());
    debug_assert_eq!(grids.len(), layout.groups());
    debug_assert_eq!(codes.len(), pack::packed_len(weights.len(), encoding.nbits));
    if weights.len() <= BLOCK {
        return encode_block(weights, 0, layout, grids, codes, encoding);
    }
    let blocks = weights.par_chunks(BLOCK).zip(codes.par_chunks_mut(pack::packed_len(BLOCK, encoding.nbits)));
    let sums = blocks
        .enumerate()
        .map(|(index, (weights, codes))| encode_block(weights, index * BLOCK, layout, grids, codes, encoding));
    sums.collect::<Vec<_>>().into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bytes, channel_of, tensor};
    use super::{Encoding, Grid, Measure, Steps, encode, ranges};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_smallest_and_largest((layout, values) in tensor()) {
            let found = ranges(&Bytes::new(&values), layout).unwrap();
            for (channel, range) in found.iter().enumerate() {
                let weights = (0..values.len()).filter(|&i| channel_of(layout)(i) == channel).map(|i| values[i]);
                let (min, max) = (weights.clone().min_by(f32::total_cmp), weights.max_by(f32::total_cmp));
                let bits = |(min, max): (f32, f32)| (min.to_bits(), max.to_bits());
                prop_assert_eq!(Some(bits(range.bounds())), min.zip(max).map(bits));
            }
        }

        #[test]
        fn weights_beyond_a_given_grid_get_its_ends(
            (layout, values) in tensor(),
            nbits in 1_u8..=8,
            grids in prop::collection::vec((0.0_f64..1.0, -2.0_f64..2.0), 60),
            divide: bool,
        ) {
            let grids: Vec<Grid> = grids.iter().map(|&(scale, bias)| Grid { scale, bias }).take(layout.groups()).collect();
            let steps = if divide { Steps::Divide } else { Steps::Multiply };
            let mut packed = vec![0; super::pack::packed_len(values.len(), nbits)];
            encode(&Bytes::new(&values), layout, &grids, &mut packed, Encoding { nbits, steps, measure: Measure::Nothing });
            let mut codes = vec![0; values.len()];
            super::pack::unpack(&packed, nbits, &mut codes);
            for (i, (&value, code)) in values.iter().zip(codes).enumerate() {
                let Grid { scale, bias } = grids[channel_of(layout)(i)];
                let distance = f64::from(value) - bias;
                let steps = if divide { distance / scale } else { distance * (1.0 / scale) };
                // The cast saturates.
                let top = 255 >> (8 - nbits);
                prop_assert_eq!(code, (steps.round_ties_even() as u8).min(top), "weight {} = {}", i, value);
            }
        }
    }

    /// 73.5 is one and a half steps of 49, but 73.5 * (1 / 49) is less in float64.
    #[test]
    fn multiplying_and_dividing_differ() {
        for (steps, expected) in [(Steps::Multiply, 1), (Steps::Divide, 2)] {
            let (grid, mut codes) = (Grid { scale: 49.0, bias: 0.0 }, [9]);
            encode(
                &Bytes::new(&[73.5]),
                super::Layout::per_tensor(1),
                &[grid],
                &mut codes,
                Encoding { nbits: 8, steps, measure: Measure::Nothing },
            );
            assert_eq!(codes, [expected], "{steps:?}");
        }
    }

    #[test]
    fn a_grid_without_steps_has_only_code_0() {
        let values = Bytes::new(&[-1.0, 0.5, 2.0]);
        for steps in [Steps::Multiply, Steps::Divide] {
            let mut codes = [9; 3];
            let grid = Grid { scale: 0.0, bias: 0.5 };
            encode(
                &values[4..8],
                super::Layout::per_tensor(1),
                &[grid],
                &mut codes[1..2],
                Encoding { nbits: 8, steps, measure: Measure::Nothing },
            );
            assert_eq!(codes, [9, 0, 9]);
        }
    }
}

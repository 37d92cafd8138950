//! The range of each channel, and its weights turned into codes on an evenly spaced grid.
//!
//! Arithmetic: float64. `q = round((w - bias) * (1 / scale))`, or `round((w - bias) / scale)` where the caller asks for
//! it; rounding is half to even; codes are clamped to the grid. Scale 0 gives code 0. Ranges are found by integer
//! comparison, in which -0 lies below +0 and NaN outside the infinities, so they depend on no order.

use super::{BLOCK, CHUNK, Channels, NonFinite, pack, words};
use multiversion::multiversion;
use rayon::prelude::*;

/// Channels shorter than this are handled [`LANES`] at a time, transposed, so that vectors run across channels.
const SHORT: usize = 32;

/// Channels of a [`Tile`].
const LANES: usize = 16;

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
    pub(crate) fn bounds(self) -> (f32, f32) {
        let value = |ordered| f32::from_bits(key(ordered) as u32);
        if self.min > self.max { (0.0, 0.0) } else { (value(self.min), value(self.max)) }
    }

    /// Whether all weights are.
    pub(super) fn is_finite(self) -> bool {
        let (min, max) = self.bounds();
        min.is_finite() && max.is_finite()
    }

    #[inline(always)]
    fn merge(&mut self, other: Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The range of the weights of one channel.
    #[inline(always)]
    fn of(weights: &[[u8; 4]]) -> Self {
        let (groups, rest) = weights.as_chunks::<32>();
        let (mut min, mut max) = ([i32::MAX; 32], [i32::MIN; 32]);
        for group in groups {
            for i in 0..32 {
                let weight = key(i32::from_le_bytes(group[i]));
                min[i] = min[i].min(weight);
                max[i] = max[i].max(weight);
            }
        }
        let mut range = Self::EMPTY;
        for i in 0..32 {
            range.merge(Self { min: min[i], max: max[i] });
        }
        for &bytes in rest {
            let weight = key(i32::from_le_bytes(bytes));
            range.merge(Self { min: weight, max: weight });
        }
        range
    }
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
fn reciprocal(scale: f64) -> f64 {
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

/// Up to [`LANES`] short channels, transposed: one lane a channel.
struct Tile {
    weights: [[i32; LANES]; SHORT],
    inner: usize,
}

impl Tile {
    #[inline(always)]
    fn new(inner: usize) -> Self {
        Self { weights: [[0; LANES]; SHORT], inner }
    }

    /// Takes the weights of consecutive channels; the lanes of missing ones keep what they had.
    #[inline(always)]
    fn load(&mut self, weights: &[[u8; 4]]) {
        for (lane, channel) in weights.chunks_exact(self.inner).enumerate().take(LANES) {
            for (row, &bytes) in self.weights.iter_mut().zip(channel) {
                row[lane] = i32::from_le_bytes(bytes);
            }
        }
    }

    /// The range of each lane.
    #[inline(always)]
    fn ranges(&self) -> [Range; LANES] {
        let (mut min, mut max) = ([i32::MAX; LANES], [i32::MIN; LANES]);
        for row in &self.weights[..self.inner] {
            for lane in 0..LANES {
                let weight = key(row[lane]);
                min[lane] = min[lane].min(weight);
                max[lane] = max[lane].max(weight);
            }
        }
        let mut ranges = [Range::EMPTY; LANES];
        for lane in 0..LANES {
            ranges[lane] = Range { min: min[lane], max: max[lane] };
        }
        ranges
    }

    /// Encodes the channels of the first lanes, in the order they came in.
    #[inline(always)]
    fn encode(&self, grids: &[Grid; LANES], steps: Steps, top: f64, codes: &mut [u8]) {
        let mut encoded = [[0_u8; LANES]; SHORT];
        let bias = grids.map(|grid| grid.bias);
        let scale = grids.map(|grid| match steps {
            Steps::Multiply => reciprocal(grid.scale),
            Steps::Divide => grid.scale,
        });
        for (row, encoded) in self.weights.iter().zip(&mut encoded).take(self.inner) {
            for lane in 0..LANES {
                let distance = f64::from(f32::from_bits(row[lane] as u32)) - bias[lane];
                encoded[lane] = match steps {
                    Steps::Multiply => round_to_code(distance * scale[lane], 0.0, top),
                    Steps::Divide => round_to_code(distance / scale[lane], 0.0, top),
                };
            }
        }
        for (lane, channel) in codes.chunks_exact_mut(self.inner).enumerate().take(LANES) {
            for (code, row) in channel.iter_mut().zip(&encoded) {
                *code = row[lane];
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

/// Splits a stretch of a tensor, from the weight `start` on, into (channel, weights) at the ends of rows.
#[inline(always)]
fn segments(weights: &[[u8; 4]], start: usize, channels: Channels) -> impl Iterator<Item = (usize, &[[u8; 4]])> {
    let inner = channels.inner.max(1);
    let (mut row, mut offset) = (start / inner, start % inner);
    let mut rest = weights;
    std::iter::from_fn(move || {
        let (segment, after) = rest.split_at(rest.len().min(inner - offset));
        let channel = row % channels.count.max(1);
        (row, offset, rest) = (row + 1, 0, after);
        (!segment.is_empty()).then_some((channel, segment))
    })
}

/// Splits whole rows of short channels, from the weight `start` on, into (first channel, weights of up to [`LANES`]).
#[inline(always)]
fn tiles(weights: &[[u8; 4]], start: usize, channels: Channels) -> impl Iterator<Item = (usize, &[[u8; 4]])> {
    let inner = channels.inner.max(1);
    let mut first = start / inner % channels.count.max(1);
    let mut rest = weights;
    std::iter::from_fn(move || {
        let lanes = LANES.min(channels.count - first);
        let (tile, after) = rest.split_at(rest.len().min(lanes * inner));
        let channel = first;
        first = if first + lanes == channels.count { 0 } else { first + lanes };
        rest = after;
        (!tile.is_empty()).then_some((channel, tile))
    })
}

/// Widens `ranges` by the weights of a block that begins at the weight `start`.
#[multiversion(targets = "simd")]
fn range_block(weights: &[[u8; 4]], start: usize, channels: Channels, ranges: &mut [Range]) {
    if channels.inner < SHORT {
        let mut tile = Tile::new(channels.inner);
        for (first, weights) in tiles(weights, start, channels) {
            tile.load(weights);
            let lanes = weights.len() / channels.inner;
            for (range, lane) in ranges[first..][..lanes].iter_mut().zip(tile.ranges()) {
                range.merge(lane);
            }
        }
    } else {
        for (channel, weights) in segments(weights, start, channels) {
            ranges[channel].merge(Range::of(weights));
        }
    }
}

/// Encodes and packs a block that begins at the weight `start`.
#[multiversion(targets = "simd")]
fn encode_block(
    weights: &[[u8; 4]],
    start: usize,
    channels: Channels,
    grids: &[Grid],
    steps: Steps,
    nbits: u8,
    codes: &mut [u8],
) {
    let top = top_code(nbits);
    let mut packer = Packer::new(nbits, codes);
    if channels.inner < SHORT {
        let mut tile = Tile::new(channels.inner);
        for (first, weights) in tiles(weights, start, channels) {
            let lanes = weights.len() / channels.inner;
            let mut lane_grids = [Grid::default(); LANES];
            lane_grids[..lanes].copy_from_slice(&grids[first..][..lanes]);
            tile.load(weights);
            tile.encode(&lane_grids, steps, top, packer.next(weights.len()));
        }
    } else {
        for (channel, weights) in segments(weights, start, channels) {
            for weights in weights.chunks(CHUNK) {
                encode_row(weights, grids[channel], steps, top, packer.next(weights.len()));
            }
        }
    }
    packer.finish();
}

/// Ranges, grids and codes of a block of whole channels, which are the first axis, while they are in the cache.
/// `grid` gives the grid of a channel of the block from its range; `None` ends the work.
#[inline(always)]
pub(super) fn quantize_rows(
    weights: &[[u8; 4]],
    inner: usize,
    steps: Steps,
    nbits: u8,
    codes: &mut [u8],
    mut grid: impl FnMut(usize, Range) -> Option<Grid>,
) -> Option<()> {
    let top = top_code(nbits);
    let mut packer = Packer::new(nbits, codes);
    if inner < SHORT {
        let mut tile = Tile::new(inner);
        for (index, weights) in weights.chunks(LANES * inner).enumerate() {
            tile.load(weights);
            let mut grids = [Grid::default(); LANES];
            let ranges = tile.ranges();
            for lane in 0..weights.len() / inner {
                grids[lane] = grid(index * LANES + lane, ranges[lane])?;
            }
            tile.encode(&grids, steps, top, packer.next(weights.len()));
        }
    } else {
        for (channel, weights) in weights.chunks(inner).enumerate() {
            let grid = grid(channel, Range::of(weights))?;
            for weights in weights.chunks(CHUNK) {
                encode_row(weights, grid, steps, top, packer.next(weights.len()));
            }
        }
    }
    packer.finish();
    Some(())
}

/// The range of each channel.
///
/// # Errors
/// The first weight that is NaN or infinite.
pub(crate) fn ranges(values: &[u8], channels: Channels) -> Result<Vec<Range>, NonFinite> {
    let weights = words(values);
    debug_assert_eq!(weights.len(), channels.len());
    let empty = || vec![Range::EMPTY; channels.count];
    let block_len = channels.block_len(SHORT);
    let ranges = if weights.len() <= BLOCK {
        let mut ranges = empty();
        range_block(weights, 0, channels, &mut ranges);
        ranges
    } else {
        let blocks = weights.par_chunks(block_len).enumerate();
        let partial = blocks.fold(empty, |mut ranges, (index, weights)| {
            range_block(weights, index * block_len, channels, &mut ranges);
            ranges
        });
        partial.reduce(empty, |mut ranges, others| {
            for (range, other) in ranges.iter_mut().zip(others) {
                range.merge(other);
            }
            ranges
        })
    };
    let finite = ranges.iter().all(|range| range.is_finite());
    match NonFinite::first(if finite { &[] } else { weights }) {
        Some(error) => Err(error),
        None => Ok(ranges),
    }
}

/// Encodes finite weights on the grid of their channel and packs the codes, `nbits` (1 to 8) bits each.
pub(crate) fn encode(values: &[u8], channels: Channels, grids: &[Grid], steps: Steps, nbits: u8, codes: &mut [u8]) {
    let weights = words(values);
    debug_assert_eq!(weights.len(), channels.len());
    debug_assert_eq!(grids.len(), channels.count);
    debug_assert_eq!(codes.len(), pack::packed_len(weights.len(), nbits));
    if weights.len() <= BLOCK {
        return encode_block(weights, 0, channels, grids, steps, nbits, codes);
    }
    let block_len = channels.block_len(SHORT);
    let blocks = weights.par_chunks(block_len).zip(codes.par_chunks_mut(pack::packed_len(block_len, nbits)));
    blocks.enumerate().for_each(|(index, (weights, codes))| {
        encode_block(weights, index * block_len, channels, grids, steps, nbits, codes);
    });
}

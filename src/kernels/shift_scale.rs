//! Linear codes as ML Programs decode them: `w' = (q - zero point) * scale`, scale and zero point shared by a box.
//!
//! Everything is computed in the weight's own type T, float16 or float32, each operation rounded to T by itself (for
//! float16: float32 arithmetic, rounded to half after each step). Per box, with mn and mx its smallest and largest value:
//!
//! - symmetric: m = max(|mn|, |mx|), mn = -m, mx = m; otherwise mn = min(0, mn), mx = max(0, mx), so that 0 is exact;
//! - `scale = (mx - mn) / (hi - lo)`;
//! - zero point: symmetric and signed 0, symmetric and unsigned hi / 2, otherwise
//!   `clip(round((lo * mx - hi * mn) / (mx - mn)), lo, hi)`;
//! - `q = clip(round(w / scale) + zero point, lo, hi)`.
//!
//! Rounding is half to even. A box of zeros has scale 0 and codes 0. These are the bits of coremltools 9.0, wherever no
//! step leaves T's range; where one does, [`Unfit`] says so.

use multiversion::multiversion;
use rayon::prelude::*;

use super::boxes::Boxes;
use super::{BLOCK, CHUNK, NonFinite, float16, pack, pack_lsb};

/// The codes of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Bits of a code: 4 or 8.
    pub(crate) nbits: u8,
    pub(crate) signed: bool,
    /// Whether the range is symmetric around zero.
    pub(crate) symmetric: bool,
}

impl Grid {
    /// The smallest and the largest code.
    fn limits(self) -> (f32, f32) {
        let levels = f32::from(1_u16 << self.nbits);
        match (self.signed, self.symmetric) {
            (true, true) => (1.0 - levels / 2.0, levels / 2.0 - 1.0),
            (true, false) => (-levels / 2.0, levels / 2.0 - 1.0),
            (false, true) => (0.0, levels - 2.0),
            (false, false) => (0.0, levels - 1.0),
        }
    }
}

/// Scale and zero point of a box, exact in T.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) scale: f32,
    pub(crate) zero_point: f32,
}

/// Why a weight has no scales in its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// A scale is too large for T: the values of a box are too far apart.
    TooLarge,
    /// A scale is too small for T: values would become 0 or be cut off.
    TooSmall,
}

/// The smallest and the largest value of each box, of float32 or float16 in little-endian bytes.
///
/// # Errors
/// The first value that is NaN or infinite.
pub(crate) fn ranges(bytes: &[u8], half: bool, boxes: &Boxes) -> Result<Vec<(f32, f32)>, NonFinite> {
    let size = if half { 2 } else { 4 };
    let parts: Result<Vec<_>, NonFinite> = bytes
        .par_chunks(BLOCK * size)
        .enumerate()
        .map(|(index, bytes)| ranges_of_block(bytes, half, boxes, index * BLOCK))
        .collect();
    let mut all = vec![(f32::INFINITY, f32::NEG_INFINITY); boxes.count()];
    for (first, ranges) in parts? {
        for (all, range) in all[first..].iter_mut().zip(ranges) {
            *all = (all.0.min(range.0), all.1.max(range.1));
        }
    }
    Ok(all)
}

/// The ranges of the boxes that a block of values touches, from the first of those on.
fn ranges_of_block(bytes: &[u8], half: bool, boxes: &Boxes, at: usize) -> Result<(usize, Vec<(f32, f32)>), NonFinite> {
    let len = bytes.len() / if half { 2 } else { 4 };
    let (mut low, mut high) = (usize::MAX, 0);
    boxes.segments(at..at + len, |segment| {
        low = low.min(segment.first);
        high = high.max(segment.first + if segment.lanes { segment.range.len() } else { 1 });
    });
    let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); high.saturating_sub(low)];
    let mut failure = None;
    let mut values = [0.0; CHUNK];
    each_chunk(bytes, half, &mut values, |start, values| {
        boxes.segments(at + start..at + start + values.len(), |segment| {
            let values = &values[segment.range.start - at - start..segment.range.end - at - start];
            let ranges = &mut ranges[segment.first - low..];
            let finite = if segment.lanes {
                widen_each(values, ranges)
            } else {
                ranges.first_mut().is_none_or(|r| widen(values, r))
            };
            if !finite && failure.is_none() {
                failure = values
                    .iter()
                    .position(|value| !value.is_finite())
                    .map(|index| NonFinite { index: segment.range.start + index, value: values[index] });
            }
        });
    });
    failure.map_or(Ok((low, ranges)), Err)
}

/// Decodes values into a buffer, piece by piece.
fn each_chunk(bytes: &[u8], half: bool, buffer: &mut [f32; CHUNK], mut visit: impl FnMut(usize, &[f32])) {
    let size = if half { 2 } else { 4 };
    for (index, bytes) in bytes.chunks(CHUNK * size).enumerate() {
        let values = &mut buffer[..bytes.len() / size];
        float16::floats(bytes, half, values);
        visit(index * CHUNK, values);
    }
}

/// Widens a range by values, and tells whether all are finite.
#[multiversion(targets = "simd")]
fn widen(values: &[f32], range: &mut (f32, f32)) -> bool {
    const LANES: usize = 16;
    let (mut low, mut high, mut magnitude) = ([range.0; LANES], [range.1; LANES], [0_u32; LANES]);
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let value = chunk[lane];
            low[lane] = if value < low[lane] { value } else { low[lane] };
            high[lane] = if value > high[lane] { value } else { high[lane] };
            magnitude[lane] = magnitude[lane].max(value.to_bits() & 0x7FFF_FFFF);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        low[lane] = if value < low[lane] { value } else { low[lane] };
        high[lane] = if value > high[lane] { value } else { high[lane] };
        magnitude[lane] = magnitude[lane].max(value.to_bits() & 0x7FFF_FFFF);
    }
    range.0 = low.into_iter().fold(f32::INFINITY, f32::min);
    range.1 = high.into_iter().fold(f32::NEG_INFINITY, f32::max);
    magnitude.into_iter().fold(0, u32::max) < f32::INFINITY.to_bits()
}

/// Widens one range for each value, and tells whether all are finite.
#[multiversion(targets = "simd")]
fn widen_each(values: &[f32], ranges: &mut [(f32, f32)]) -> bool {
    let mut magnitude = 0;
    for (&value, range) in values.iter().zip(ranges) {
        range.0 = if value < range.0 { value } else { range.0 };
        range.1 = if value > range.1 { value } else { range.1 };
        magnitude = magnitude.max(value.to_bits() & 0x7FFF_FFFF);
    }
    magnitude < f32::INFINITY.to_bits()
}

/// Rounds to T.
#[inline(always)]
fn rounded<const HALF: bool>(value: f32) -> f32 {
    if HALF { float16::rounded(value) } else { value }
}

/// Scales and zero points from ranges.
pub(crate) fn steps(ranges: &[(f32, f32)], half: bool, grid: Grid) -> Result<Vec<Step>, Unfit> {
    let step = if half { step::<true> } else { step::<false> };
    ranges.par_iter().with_min_len(1 << 12).map(|&range| step(range, grid)).collect()
}

fn step<const HALF: bool>((mn, mx): (f32, f32), grid: Grid) -> Result<Step, Unfit> {
    let (lo, hi) = grid.limits();
    let (mn, mx) = if grid.symmetric {
        let largest = mn.abs().max(mx.abs());
        (-largest, largest)
    } else {
        (mn.min(0.0), mx.max(0.0))
    };
    let span = rounded::<HALF>(mx - mn);
    let scale = rounded::<HALF>(span / (hi - lo));
    if !scale.is_finite() || !span.is_finite() {
        return Err(Unfit::TooLarge);
    }
    if span == 0.0 {
        let zero_point = if grid.symmetric && !grid.signed { hi / 2.0 } else { 0.0 };
        return Ok(Step { scale: 0.0, zero_point });
    }
    // Rounding of a scale with all its digits moves the outermost code by less than one; more cuts values off.
    if scale == 0.0 || span / scale > (hi - lo) + 2.0 {
        return Err(Unfit::TooSmall);
    }
    let zero_point = match (grid.symmetric, grid.signed) {
        (true, true) => 0.0,
        (true, false) => hi / 2.0,
        (false, _) => {
            let (low, high) = (rounded::<HALF>(lo * mx), rounded::<HALF>(hi * mn));
            let difference = rounded::<HALF>(low - high);
            // Where T has no room for the products, float32 has.
            let ratio = if difference.is_finite() {
                rounded::<HALF>(difference / span)
            } else {
                let (lo, hi, mn, mx) = (f64::from(lo), f64::from(hi), f64::from(mn), f64::from(mx));
                ((lo * mx - hi * mn) / (mx - mn)) as f32
            };
            ratio.round_ties_even().clamp(lo, hi)
        }
    };
    Ok(Step { scale, zero_point })
}

/// Shares of the range from which better scales are looked for.
const SHARES: [f32; 6] = [1.0, 0.92, 0.84, 0.76, 0.68, 0.6];

/// Times that codes and scale are made to fit each other, from each start.
const REFINEMENTS: usize = 8;

/// Puts scales of less squared error in the place of those of the whole range, where there are any: outliers may be
/// clipped. For the codes that a scale gives, the best one is `sum(w d) / sum(d d)` with `d = q - zero point`; that is
/// repeated with its own codes. Zero points stay. Errors are those of decoded values, scales rounded to T first.
pub(crate) fn least_squares(bytes: &[u8], half: bool, boxes: &Boxes, grid: Grid, steps: &mut [Step]) {
    let mut groups = vec![Vec::with_capacity(boxes.len() / boxes.count().max(1)); boxes.count()];
    let mut values = [0.0; CHUNK];
    each_chunk(bytes, half, &mut values, |start, values| {
        boxes.segments(start..start + values.len(), |segment| {
            let inside = &values[segment.range.start - start..segment.range.end - start];
            if segment.lanes {
                for (group, &value) in groups[segment.first..].iter_mut().zip(inside) {
                    group.push(value);
                }
            } else {
                groups[segment.first].extend_from_slice(inside);
            }
        });
    });
    let limits = grid.limits();
    let refine = if half { refined::<true> } else { refined::<false> };
    groups.par_iter().zip(steps).for_each(|(values, step)| *step = refine(values, *step, limits));
}

fn refined<const HALF: bool>(values: &[f32], step: Step, limits: (f32, f32)) -> Step {
    if step.scale == 0.0 {
        return step;
    }
    let (mut best, mut least) = (step, fit::<HALF>(values, step, limits).0);
    for share in SHARES {
        let mut tried = Step { scale: rounded::<HALF>(step.scale * share), ..step };
        for _ in 0..REFINEMENTS {
            if tried.scale == 0.0 {
                break;
            }
            let (error, scale) = fit::<HALF>(values, tried, limits);
            if error < least {
                (best, least) = (tried, error);
            }
            let scale = rounded::<HALF>(scale as f32);
            if scale == tried.scale || !scale.is_finite() || scale <= 0.0 {
                break;
            }
            tried.scale = scale;
        }
    }
    best
}

/// The squared error of a step, and the best scale for its codes.
fn fit<const HALF: bool>(values: &[f32], step: Step, (lo, hi): (f32, f32)) -> (f64, f64) {
    let (mut error, mut products, mut squares) = (0.0, 0.0, 0.0);
    for &value in values {
        let whole = rounded::<HALF>(value / step.scale).clamp(-1024.0, 1024.0).round_ties_even();
        let distance = (whole + step.zero_point).clamp(lo, hi) - step.zero_point;
        let lost = f64::from(value) - f64::from(rounded::<HALF>(distance * step.scale));
        error += lost * lost;
        products += f64::from(value) * f64::from(distance);
        squares += f64::from(distance) * f64::from(distance);
    }
    (error, products / squares)
}

/// Writes the codes, packed as weight.bin has them, into `out`.
pub(crate) fn encode(bytes: &[u8], half: bool, boxes: &Boxes, steps: &[Step], grid: Grid, out: &mut [u8]) {
    let size = if half { 2 } else { 4 };
    debug_assert_eq!(out.len(), pack::packed_len(bytes.len() / size, grid.nbits));
    let blocks = bytes.par_chunks(BLOCK * size).zip(out.par_chunks_mut(pack::packed_len(BLOCK, grid.nbits)));
    blocks.enumerate().for_each(|(index, (bytes, out))| {
        let at = index * BLOCK;
        let (mut values, mut codes) = ([0.0; CHUNK], [0; CHUNK]);
        each_chunk(bytes, half, &mut values, |start, values| {
            let codes = &mut codes[..values.len()];
            boxes.segments(at + start..at + start + values.len(), |segment| {
                let inside = segment.range.start - at - start..segment.range.end - at - start;
                let (values, codes) = (&values[inside.clone()], &mut codes[inside]);
                let steps = &steps[segment.first..];
                let limits = grid.limits();
                if segment.lanes {
                    codes_of_each(values, steps, limits, half, codes);
                } else {
                    codes_of_run(values, steps[0], limits, half, codes);
                }
            });
            let first = pack::packed_len(start, grid.nbits);
            let out = &mut out[first..first + pack::packed_len(codes.len(), grid.nbits)];
            if grid.nbits == 8 { out.copy_from_slice(codes) } else { pack_lsb::pack(codes, grid.nbits, out) }
        });
    });
}

/// Adding it to a float32 of less than 2^22 rounds that to a whole number, in the lowest bits of the sum.
const MAGIC: f32 = 12_582_912.0;

#[inline(always)]
fn code<const HALF: bool>(value: f32, step: Step, (lo, hi): (f32, f32)) -> u8 {
    let ratio = rounded::<HALF>(value / step.scale);
    // The sum is a whole number once the ratio is one, so that it may be rounded after clipping.
    let ratio = ratio.clamp(-1024.0, 1024.0);
    let whole = (ratio + MAGIC) - MAGIC;
    let clipped = (whole + step.zero_point).clamp(lo, hi);
    (clipped + MAGIC).to_bits() as u8
}

#[multiversion(targets = "simd")]
fn codes_of_run(values: &[f32], step: Step, limits: (f32, f32), half: bool, out: &mut [u8]) {
    if step.scale == 0.0 {
        out.fill(0);
    } else if half {
        for (&value, out) in values.iter().zip(out) {
            *out = code::<true>(value, step, limits);
        }
    } else {
        for (&value, out) in values.iter().zip(out) {
            *out = code::<false>(value, step, limits);
        }
    }
}

#[multiversion(targets = "simd")]
fn codes_of_each(values: &[f32], steps: &[Step], limits: (f32, f32), half: bool, out: &mut [u8]) {
    #[inline(always)]
    fn each<const HALF: bool>(values: &[f32], steps: &[Step], limits: (f32, f32), out: &mut [u8]) {
        for ((&value, &step), out) in values.iter().zip(steps).zip(out) {
            let code = code::<HALF>(value, step, limits);
            *out = if step.scale == 0.0 { 0 } else { code };
        }
    }
    if half { each::<true>(values, steps, limits, out) } else { each::<false>(values, steps, limits, out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use proptest::prelude::*;

    /// The formulas with the `half` crate, one value after another.
    fn slowly(values: &[f32], half: bool, grid: Grid) -> (f32, f32, Vec<u8>) {
        let t = |value: f32| if half { f16::from_f32(value).to_f32() } else { value };
        let (lo, hi) = grid.limits();
        let (mut mn, mut mx) =
            values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(mn, mx), &v| (mn.min(v), mx.max(v)));
        if grid.symmetric {
            mx = mn.abs().max(mx.abs());
            mn = -mx;
        } else {
            (mn, mx) = (mn.min(0.0), mx.max(0.0));
        }
        let scale = t(t(mx - mn) / (hi - lo));
        let zero_point = match (grid.symmetric, grid.signed) {
            (true, true) => 0.0,
            (true, false) => hi / 2.0,
            _ => t(t(t(lo * mx) - t(hi * mn)) / t(mx - mn)).round_ties_even().clamp(lo, hi),
        };
        let code = |&w: &f32| {
            let q = (t(w / scale).round_ties_even() + zero_point).clamp(lo, hi);
            (q as i32) as u8
        };
        (scale, zero_point, values.iter().map(code).collect())
    }

    proptest! {
        #[test]
        fn codes_follow_the_formulas(
            values in prop::collection::vec(-2.0_f32..3.0, 24..200),
            half: bool, signed: bool, symmetric: bool, four: bool, lanes: bool,
        ) {
            let grid = Grid { nbits: if four { 4 } else { 8 }, signed, symmetric };
            let rows = 3;
            let columns = values.len() / rows;
            let values = &values[..rows * columns];
            let values: Vec<f32> = values.iter().map(|&v| if half { f16::from_f32(v).to_f32() } else { v }).collect();
            let bytes: Vec<u8> = if half {
                values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
            } else {
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            };
            let block = if lanes { [rows, 1] } else { [1, columns] };
            let boxes = Boxes::new(&[rows, columns], &block).unwrap();
            let ranges = ranges(&bytes, half, &boxes).unwrap();
            let steps = steps(&ranges, half, grid).unwrap();
            let mut packed = vec![0; pack::packed_len(values.len(), grid.nbits)];
            encode(&bytes, half, &boxes, &steps, grid, &mut packed);
            let mut codes = vec![0; values.len()];
            pack_lsb::unpack(&packed, grid.nbits, &mut codes);
            for (number, step) in steps.iter().enumerate() {
                let mine = |i: &usize| if lanes { i % columns == number } else { i / columns == number };
                let picked: Vec<f32> = (0..values.len()).filter(mine).map(|i| values[i]).collect();
                let found: Vec<u8> = (0..values.len()).filter(mine).map(|i| codes[i]).collect();
                let (scale, zero_point, expected) = slowly(&picked, half, grid);
                prop_assert_eq!((step.scale, step.zero_point), (scale, zero_point));
                let low = 0xFF >> (8 - grid.nbits);
                prop_assert_eq!(found, expected.iter().map(|code| code & low).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let grid = Grid { nbits: 8, signed: true, symmetric: true };
        assert_eq!(steps(&[(-65504.0, 0.0)], true, grid), Err(Unfit::TooLarge));
        assert_eq!(steps(&[(0.0, 1e-6)], true, grid), Err(Unfit::TooSmall));
        assert!(steps(&[(0.0, 1e-6)], false, grid).is_ok());
        assert_eq!(steps(&[(0.0, 0.0)], true, grid), Ok(vec![Step { scale: 0.0, zero_point: 0.0 }]));
        let boxes = Boxes::new(&[2], &[2]).unwrap();
        let bytes: Vec<u8> = [1.0, f32::NAN].iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
        assert_eq!(ranges(&bytes, false, &boxes).unwrap_err().index, 1);
    }
}

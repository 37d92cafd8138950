//! Linear quantization: a channel's codes stand for evenly spaced values, `w = q * scale + bias`.
//!
//! Arithmetic: float64 throughout, bit for bit that of coremltools 9.0 with protobuf up to 6. With `min` and `max` of the
//! channel and n bits,
//! - linear: `scale = (max - min) / (2^n - 1)`, `bias = min`, `q = round((w - min) * (1 / scale))`;
//! - symmetric, from 2 bits on: `scale = max(|min|, |max|) / (2^(n-1) - 1)`, `bias = -2^(n-1) * scale`,
//!   `q = round((w - bias) / scale)`;
//! - linear lookup table: as linear over the whole tensor, `table[i] = i * scale + bias`.
//!
//! Rounding is half to even. `scale`, `bias` and the table are then rounded to float32.
//!
//! Differences from coremltools, none of which touches a channel with a scale above 1e-6:
//! - a scale of at most 1e-6 is used like any other (there all weights of the channel collapse to the bias);
//! - a scale below the normal float32 is rounded up to a float32 before it is used, so that the stored scale is the one
//!   that the codes were made for;
//! - a scale or bias beyond float32 is an error (there it is stored as infinity).
//!
//! A constant channel has scale 0, its value as bias, and codes 0; in symmetric quantization that is the case for zero
//! alone. In a channel with both -0 and +0 and no smaller weight, the bias is -0 (there the sign depends on the order).
//! NaN and infinite weights are errors. Codes are packed as [`pack`](super::pack) says.

use super::encode::{self, Encoding, Grid, Measure, Range, Steps, all_finite, quantize_rows};
use super::errors::ErrorSums;
use super::{BLOCK, Layout, NonFinite, pack, words};
use multiversion::multiversion;
use rayon::prelude::*;

/// Channels up to this length (512 KiB of float32) are read for their range and encoded right after, from the cache.
const CACHED: usize = 1 << 17;

/// Where the values of a channel's codes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// From the channel's minimum to its maximum.
    Linear,
    /// Around zero, which has the code `2^(nbits-1)`. Needs at least 2 bits.
    Symmetric,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Bits of a code: 1 to 8, symmetric from 2.
    pub(crate) nbits: u8,
    /// Where the values of codes lie.
    pub(crate) scheme: Scheme,
    /// Whether errors are measured; else their sums are 0.
    pub(crate) measure: bool,
}

impl Settings {
    pub(super) fn encoding(self) -> Encoding {
        let measure = if self.measure { Measure::Scaled } else { Measure::Nothing };
        Encoding { nbits: self.nbits, steps: self.scheme.steps(), measure }
    }
}

/// Why a tensor has no linear quantization.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Error {
    /// A weight is NaN or infinite.
    NonFinite(NonFinite),
    /// The scale or bias of a channel is beyond float32.
    Overflow {
        /// The first such channel.
        channel: usize,
    },
}

impl From<NonFinite> for Error {
    fn from(error: NonFinite) -> Self {
        Self::NonFinite(error)
    }
}

impl Scheme {
    pub(super) fn steps(self) -> Steps {
        match self {
            Self::Linear => Steps::Multiply,
            Self::Symmetric => Steps::Divide,
        }
    }

    /// The grid that spans a channel's range.
    #[inline(always)]
    fn grid(self, range: Range, nbits: u8) -> Grid {
        let (min, max) = range.bounds();
        let (min, max) = (f64::from(min), f64::from(max));
        let levels = f64::from(1_u32 << nbits);
        match self {
            Self::Linear => Grid { scale: (max - min) / (levels - 1.0), bias: min },
            Self::Symmetric => {
                let radius = if min.abs() > max.abs() { min.abs() } else { max.abs() };
                let scale = radius / (levels / 2.0 - 1.0);
                Grid { scale, bias: -levels / 2.0 * scale }
            }
        }
    }

    /// The grids of some channels, and their scale and bias as they are stored. `None` if one has no grid.
    #[inline(always)]
    fn grids(self, ranges: &[Range], nbits: u8, grids: &mut [Grid], scale: &mut [f32], bias: &mut [f32]) -> Option<()> {
        let (mut stored, mut tiny) = (all_finite(ranges), false);
        for ((&range, grid), (scale, bias)) in ranges.iter().zip(&mut *grids).zip(scale.iter_mut().zip(&mut *bias)) {
            *grid = self.grid(range, nbits);
            (*scale, *bias) = (grid.scale as f32, grid.bias as f32);
            stored &= scale.is_finite() & bias.is_finite();
            tiny |= grid.scale < f64::from(f32::MIN_POSITIVE);
        }
        if tiny {
            for (grid, (scale, bias)) in grids.iter_mut().zip(scale.iter_mut().zip(bias)) {
                grid.scale = storable_scale(grid.scale);
                if self == Self::Symmetric {
                    grid.bias = -f64::from(1_u32 << nbits) / 2.0 * grid.scale;
                }
                (*scale, *bias) = (grid.scale as f32, grid.bias as f32);
            }
        }
        stored.then_some(())
    }
}

/// `scale`, or if that is below the normal float32 the next float32 from it up: rounding to nearest could halve or lose it.
pub(super) fn storable_scale(scale: f64) -> f64 {
    if scale >= f64::from(f32::MIN_POSITIVE) {
        return scale;
    }
    let nearest = scale as f32;
    f64::from(if f64::from(nearest) < scale { nearest.next_up() } else { nearest })
}

/// Quantizes float32 weights to packed codes.
///
/// `codes` has [`pack::packed_len`] bytes, `scale` and `bias` a value a channel.
///
/// # Errors
/// The first weight that is not finite, else the first channel that overflows. The outputs are then unspecified.
pub(crate) fn quantize(
    values: &[u8],
    layout: Layout,
    settings: Settings,
    codes: &mut [u8],
    scale: &mut [f32],
    bias: &mut [f32],
) -> Result<ErrorSums, Error> {
    let weights = words(values);
    debug_assert_eq!(weights.len(), layout.len());
    debug_assert_eq!((scale.len(), bias.len()), (layout.groups(), layout.groups()));
    debug_assert_eq!(codes.len(), pack::packed_len(weights.len(), settings.nbits));

    let cached = layout.is_contiguous() && (1..=CACHED).contains(&layout.inner);
    if cached && let Some(sums) = quantize_cached(weights, layout, settings, codes, scale, bias) {
        return Ok(sums);
    }
    // Large channels, channels that are not the first axis, and what is going to be an error.
    let grids = min_max_grids(values, layout, settings.nbits, settings.scheme, scale, bias)?;
    Ok(encode::encode(values, layout, &grids, codes, settings.encoding()))
}

/// The grids from minimum to maximum, and their scale and bias as they are stored.
///
/// # Errors
/// The first weight that is not finite, else the first channel that overflows.
pub(super) fn min_max_grids(
    values: &[u8],
    layout: Layout,
    nbits: u8,
    scheme: Scheme,
    scale: &mut [f32],
    bias: &mut [f32],
) -> Result<Vec<Grid>, Error> {
    let ranges = encode::ranges(values, layout)?;
    let mut grids = vec![Grid::default(); layout.groups()];
    if scheme.grids(&ranges, nbits, &mut grids, scale, bias).is_some() {
        return Ok(grids);
    }
    let beyond = |&channel: &usize| !(scale[channel].is_finite() && bias[channel].is_finite());
    Err(Error::Overflow { channel: (0..layout.groups()).find(beyond).unwrap_or_default() })
}

/// Quantizes channels of the first axis one after the other. `None` if any of them has an error.
fn quantize_cached(
    weights: &[[u8; 4]],
    layout: Layout,
    settings: Settings,
    codes: &mut [u8],
    scale: &mut [f32],
    bias: &mut [f32],
) -> Option<ErrorSums> {
    let inner = layout.inner;
    if weights.len() <= BLOCK {
        return quantize_block(weights, inner, settings, codes, scale, bias);
    }
    // A multiple of 8 channels, so that the codes of a block fill whole bytes.
    let count = (BLOCK / inner).next_multiple_of(8).max(8);
    let block_len = count * inner;
    let blocks = weights.par_chunks(block_len).zip(codes.par_chunks_mut(pack::packed_len(block_len, settings.nbits)));
    let parameters = scale.par_chunks_mut(count).zip(bias.par_chunks_mut(count));
    let sums = blocks
        .zip(parameters)
        .map(|((weights, codes), (scale, bias))| quantize_block(weights, inner, settings, codes, scale, bias));
    Some(sums.collect::<Option<Vec<_>>>()?.into_iter().sum())
}

#[multiversion(targets = "simd")]
fn quantize_block(
    weights: &[[u8; 4]],
    inner: usize,
    settings: Settings,
    codes: &mut [u8],
    scale: &mut [f32],
    bias: &mut [f32],
) -> Option<ErrorSums> {
    let Settings { nbits, scheme, .. } = settings;
    quantize_rows(weights, inner, codes, settings.encoding(), |first, ranges, grids| {
        let (scale, bias) = (&mut scale[first..][..ranges.len()], &mut bias[first..][..ranges.len()]);
        scheme.grids(ranges, nbits, grids, scale, bias)
    })
}

/// Quantizes float32 weights to packed codes of `nbits` (1 to 8) bits and the table of the `2^nbits` values they stand
/// for, evenly spaced from the smallest weight to the largest.
///
/// `codes` has [`pack::packed_len`] bytes, `table` 2^`nbits` values.
///
/// # Errors
/// The first weight that is not finite.
pub(crate) fn quantize_table(
    values: &[u8],
    nbits: u8,
    codes: &mut [u8],
    table: &mut [f32],
    measure: bool,
) -> Result<ErrorSums, NonFinite> {
    debug_assert_eq!(table.len(), 1 << nbits);
    let layout = Layout::per_tensor(words(values).len());
    let grids: Vec<Grid> =
        encode::ranges(values, layout)?.into_iter().map(|range| Scheme::Linear.grid(range, nbits)).collect();
    let measure = if measure { Measure::Tabled } else { Measure::Nothing };
    let sums = encode::encode(values, layout, &grids, codes, Encoding { nbits, steps: Steps::Multiply, measure });
    for grid in grids {
        for (code, entry) in (0_u32..).zip(&mut *table) {
            *entry = (f64::from(code) * grid.scale + grid.bias) as f32;
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::super::dequantize::Stored;
    use super::super::testing::{Bytes, channel_of, check_measured, in_pool, large, tensor};
    use super::super::{Layout, pack};
    use super::{Error, Scheme, Settings, quantize, quantize_table};
    use proptest::prelude::*;

    #[derive(Debug, PartialEq)]
    struct Quantized {
        codes: Vec<u8>,
        scale: Vec<u32>,
        bias: Vec<u32>,
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    fn run(values: &[f32], layout: Layout, nbits: u8, scheme: Scheme) -> Result<Quantized, Error> {
        let mut packed = vec![0xAA; pack::packed_len(values.len(), nbits)];
        let (mut scale, mut bias) = (vec![9.0; layout.groups()], vec![9.0; layout.groups()]);
        let settings = Settings { nbits, scheme, measure: true };
        let sums = quantize(&Bytes::new(values), layout, settings, &mut packed, &mut scale, &mut bias)?;
        let stored = Stored::Linear { nbits, layout, scale: &scale, bias: &bias };
        check_measured(sums, values, &packed, stored);
        let mut codes = vec![0xAA; values.len()];
        pack::unpack(&packed, nbits, &mut codes);
        Ok(Quantized { codes, scale: bits(&scale), bias: bits(&bias) })
    }

    /// The formulas, weight by weight. A channel whose numbers do not fit float32 is the error.
    fn by_the_formulas(values: &[f32], layout: Layout, nbits: u8, scheme: Scheme) -> Result<Quantized, usize> {
        let channel = channel_of(layout);
        let mut bounds = vec![(f32::INFINITY, f32::NEG_INFINITY); layout.groups()];
        for (i, &value) in values.iter().enumerate() {
            let (min, max) = &mut bounds[channel(i)];
            *min = if value.total_cmp(min).is_lt() { value } else { *min };
            *max = if value.total_cmp(max).is_gt() { value } else { *max };
        }
        let (mut scales, mut biases) = (vec![], vec![]);
        for (c, (min, max)) in bounds.into_iter().enumerate() {
            let (min, max) = (f64::from(min), f64::from(max));
            let mut scale = match scheme {
                Scheme::Linear => (max - min) / (2_f64.powi(nbits.into()) - 1.0),
                Scheme::Symmetric => min.abs().max(max.abs()) / (2_f64.powi(i32::from(nbits) - 1) - 1.0),
            };
            if scale < f64::from(f32::MIN_POSITIVE) {
                // Up to a multiple of the smallest float32.
                let unit = f64::from(f32::from_bits(1));
                scale = (scale / unit).ceil() * unit;
            }
            let bias = match scheme {
                Scheme::Linear => min,
                Scheme::Symmetric => -2_f64.powi(i32::from(nbits) - 1) * scale,
            };
            if !((scale as f32).is_finite() && (bias as f32).is_finite()) {
                return Err(c);
            }
            scales.push(scale);
            biases.push(bias);
        }
        let code = |(i, &value): (usize, &f32)| {
            let (scale, distance) = (scales[channel(i)], f64::from(value) - biases[channel(i)]);
            match scheme {
                _ if scale == 0.0 => 0,
                Scheme::Linear => (distance * (1.0 / scale)).round_ties_even() as u8,
                Scheme::Symmetric => (distance / scale).round_ties_even() as u8,
            }
        };
        let stored = |values: Vec<f64>| values.into_iter().map(|value| (value as f32).to_bits()).collect();
        let codes = values.iter().enumerate().map(code).collect();
        Ok(Quantized { codes, scale: stored(scales), bias: stored(biases) })
    }

    /// The largest error in a channel of what its stored scale and bias stand for must be half a step.
    fn check_half_a_step(values: &[f32], layout: Layout, quantized: &Quantized) {
        for (i, (&value, &code)) in values.iter().zip(&quantized.codes).enumerate() {
            let channel = channel_of(layout)(i);
            let [scale, bias] =
                [&quantized.scale, &quantized.bias].map(|values| f64::from(f32::from_bits(values[channel])));
            let error = (f64::from(code) * scale + bias - f64::from(value)).abs();
            assert!(error <= 0.5001 * scale, "weight {i} is {value}, its error {error}, the scale {scale}");
        }
    }

    proptest! {
        #[test]
        fn any_tensor_is_quantized_by_the_formulas(
            (layout, values) in tensor(),
            nbits in 1_u8..=8,
            symmetric: bool,
        ) {
            let scheme = if symmetric && nbits > 1 { Scheme::Symmetric } else { Scheme::Linear };
            match (run(&values, layout, nbits, scheme), by_the_formulas(&values, layout, nbits, scheme)) {
                (Ok(quantized), Ok(expected)) => {
                    prop_assert_eq!(&quantized, &expected);
                    check_half_a_step(&values, layout, &quantized);
                }
                (Err(Error::Overflow { channel }), Err(expected)) => prop_assert_eq!(channel, expected),
                (quantized, expected) => prop_assert!(false, "{quantized:?}, expected {expected:?}"),
            }
        }

        #[test]
        fn the_first_weight_that_is_not_finite_is_the_error(
            (layout, mut values) in tensor(),
            at: [prop::sample::Index; 2],
            bad in prop::sample::select(vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        ) {
            let mut at = at.map(|at| at.index(values.len()));
            at.sort();
            for at in at {
                values[at] = bad;
            }
            for scheme in [Scheme::Linear, Scheme::Symmetric] {
                match run(&values, layout, 4, scheme) {
                    Err(Error::NonFinite(error)) => {
                        prop_assert_eq!((error.index, error.value.to_bits()), (at[0], bad.to_bits()));
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            let table = quantize_table(&Bytes::new(&values), 1, &mut vec![0; values.len().div_ceil(8)], &mut [0.0; 2], true);
            prop_assert_eq!(table.map_err(|error| error.index).err(), Some(at[0]));
        }

        #[test]
        fn a_table_spans_the_tensor((layout, values) in tensor(), nbits in 1_u8..=8) {
            let layout = Layout::per_tensor(layout.len());
            let mut packed = vec![0xAA; pack::packed_len(values.len(), nbits)];
            let mut table = vec![9.0; 1 << nbits];
            let sums = quantize_table(&Bytes::new(&values), nbits, &mut packed, &mut table, true).unwrap();
            check_measured(sums, &values, &packed, Stored::Table { nbits, table: &table });
            let [min, max] = [values.iter().copied().min_by(f32::total_cmp), values.iter().copied().max_by(f32::total_cmp)];
            let [min, max] = [min, max].map(|value| f64::from(value.unwrap()));
            let scale = (max - min) / (2_f64.powi(nbits.into()) - 1.0);
            for (code, entry) in table.iter().enumerate() {
                prop_assert_eq!(*entry, (code as f64 * scale + min) as f32);
            }
            // Above the subnormal numbers the codes are those of linear quantization.
            if scale > 1e-30 && scale < 1e38 {
                let mut codes = vec![0; values.len()];
                pack::unpack(&packed, nbits, &mut codes);
                prop_assert_eq!(codes, run(&values, layout, nbits, Scheme::Linear).unwrap().codes);
            }
            let mut decoded = vec![0; values.len()];
            pack::unpack(&packed, nbits, &mut decoded);
            for (&value, code) in values.iter().zip(decoded) {
                let error = (f64::from(table[usize::from(code)]) - f64::from(value)).abs();
                let rounding = f64::from(value.abs()) * 1e-7 + f64::from(f32::from_bits(1));
                prop_assert!(error <= 0.5001 * scale + rounding);
            }
        }
    }

    /// Layouts of several blocks: rows inside a block, rows across blocks, channels on the second axis, one channel.
    #[test]
    fn blocks_and_threads_change_nothing() {
        for (outer, count, inner) in [(1, 700, 301), (1, 3, 150_001), (3, 5, 20_011), (1, 1, 200_003), (40, 600, 9)] {
            let layout = Layout { slabs: 1, outer, count, inner };
            let values = large(layout);
            for (nbits, scheme) in [(8, Scheme::Linear), (3, Scheme::Linear), (5, Scheme::Symmetric)] {
                let expected = by_the_formulas(&values, layout, nbits, scheme).unwrap();
                for threads in [1, 3] {
                    let quantized = in_pool(threads, || run(&values, layout, nbits, scheme)).unwrap();
                    assert!(quantized == expected, "{layout:?}, {nbits} bits, {threads} threads");
                }
            }
        }
    }

    /// As coremltools 9.0 quantizes `[[-1.0, 0.1, 2.5], [0.5, 0.5, 0.5]]` to 2 bits.
    #[test]
    fn numbers_of_coremltools() {
        let layout = Layout { slabs: 1, outer: 1, count: 2, inner: 3 };
        let quantized = run(&[-1.0, 0.1, 2.5, 0.5, 0.5, 0.5], layout, 2, Scheme::Linear).unwrap();
        assert_eq!(quantized.codes, [0, 1, 3, 0, 0, 0]);
        assert_eq!(quantized.scale, bits(&[1.166_666_6, 0.0]));
        assert_eq!(quantized.bias, bits(&[-1.0, 0.5]));
        let quantized = run(&[-1.0, 0.1, 2.5, 0.5, 0.5, 0.5], layout, 2, Scheme::Symmetric).unwrap();
        assert_eq!(quantized.codes, [2, 2, 3, 3, 3, 3]);
        assert_eq!(quantized.scale, bits(&[2.5, 0.5]));
        assert_eq!(quantized.bias, bits(&[-5.0, -1.0]));
    }

    #[test]
    fn numbers_beyond_float32_are_an_error() {
        let values = [0.0, 1.0, f32::MIN, f32::MAX];
        let layout = Layout { slabs: 1, outer: 1, count: 2, inner: 2 };
        assert!(matches!(run(&values, layout, 1, Scheme::Linear), Err(Error::Overflow { channel: 1 })));
        assert!(matches!(run(&values, layout, 2, Scheme::Symmetric), Err(Error::Overflow { channel: 1 })));
        assert_eq!(run(&values, layout, 2, Scheme::Linear).unwrap().codes, [0, 3, 0, 3]);
    }

    #[test]
    fn no_weights_have_scale_and_bias_zero() {
        for layout in
            [Layout { slabs: 1, outer: 1, count: 2, inner: 0 }, Layout { slabs: 1, outer: 0, count: 2, inner: 3 }]
        {
            let quantized = run(&[], layout, 3, Scheme::Linear).unwrap();
            assert_eq!(quantized, Quantized { codes: vec![], scale: vec![0; 2], bias: vec![0; 2] });
        }
    }
}

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

use super::encode::{self, Grid, Range, Steps, all_finite, quantize_rows};
use super::{BLOCK, Channels, NonFinite, pack, words};
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

/// Why a tensor has no linear quantization.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Error {
    /// A weight is NaN or infinite.
    NonFinite(NonFinite),
    /// The scale or bias of a channel is beyond float32.
    Overflow {
        /// The first such channel.
        channel: usize,
        /// Its scale, before rounding to float32.
        scale: f64,
        /// Its bias, before rounding to float32.
        bias: f64,
    },
}

impl From<NonFinite> for Error {
    fn from(error: NonFinite) -> Self {
        Self::NonFinite(error)
    }
}

impl Scheme {
    fn steps(self) -> Steps {
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

/// Quantizes float32 weights to packed codes of `nbits` (1 to 8, symmetric from 2) bits.
///
/// `codes` has [`pack::packed_len`] bytes, `scale` and `bias` a value a channel.
///
/// # Errors
/// The first weight that is not finite, else the first channel that overflows. The outputs are then unspecified.
pub(crate) fn quantize(
    values: &[u8],
    channels: Channels,
    nbits: u8,
    scheme: Scheme,
    codes: &mut [u8],
    scale: &mut [f32],
    bias: &mut [f32],
) -> Result<(), Error> {
    let weights = words(values);
    debug_assert_eq!(weights.len(), channels.len());
    debug_assert_eq!((scale.len(), bias.len()), (channels.count, channels.count));
    debug_assert_eq!(codes.len(), pack::packed_len(weights.len(), nbits));

    let cached = channels.outer == 1 && (1..=CACHED).contains(&channels.inner);
    if cached && quantize_cached(weights, channels, nbits, scheme, codes, scale, bias).is_some() {
        return Ok(());
    }
    // Large channels, channels that are not the first axis, and what is going to be an error.
    let ranges = encode::ranges(values, channels)?;
    let mut grids = vec![Grid::default(); channels.count];
    if scheme.grids(&ranges, nbits, &mut grids, scale, bias).is_none() {
        let beyond = |&channel: &usize| !(scale[channel].is_finite() && bias[channel].is_finite());
        let channel = (0..channels.count).find(beyond).unwrap_or_default();
        return Err(Error::Overflow { channel, scale: grids[channel].scale, bias: grids[channel].bias });
    }
    encode::encode(values, channels, &grids, scheme.steps(), nbits, codes);
    Ok(())
}

/// Quantizes channels of the first axis one after the other. `None` if any of them has an error.
fn quantize_cached(
    weights: &[[u8; 4]],
    channels: Channels,
    nbits: u8,
    scheme: Scheme,
    codes: &mut [u8],
    scale: &mut [f32],
    bias: &mut [f32],
) -> Option<()> {
    let inner = channels.inner;
    if weights.len() <= BLOCK {
        return quantize_block(weights, inner, nbits, scheme, codes, scale, bias);
    }
    // A multiple of 8 channels, so that the codes of a block fill whole bytes.
    let count = (BLOCK / inner).next_multiple_of(8).max(8);
    let block_len = count * inner;
    let blocks = weights.par_chunks(block_len).zip(codes.par_chunks_mut(pack::packed_len(block_len, nbits)));
    let parameters = scale.par_chunks_mut(count).zip(bias.par_chunks_mut(count));
    blocks.zip(parameters).try_for_each(|((weights, codes), (scale, bias))| {
        quantize_block(weights, inner, nbits, scheme, codes, scale, bias)
    })
}

#[multiversion(targets = "simd")]
fn quantize_block(
    weights: &[[u8; 4]],
    inner: usize,
    nbits: u8,
    scheme: Scheme,
    codes: &mut [u8],
    scale: &mut [f32],
    bias: &mut [f32],
) -> Option<()> {
    quantize_rows(weights, inner, scheme.steps(), nbits, codes, |first, ranges, grids| {
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
pub(crate) fn quantize_table(values: &[u8], nbits: u8, codes: &mut [u8], table: &mut [f32]) -> Result<(), NonFinite> {
    debug_assert_eq!(table.len(), 1 << nbits);
    let channels = Channels::per_tensor(words(values).len());
    let grids: Vec<Grid> =
        encode::ranges(values, channels)?.into_iter().map(|range| Scheme::Linear.grid(range, nbits)).collect();
    encode::encode(values, channels, &grids, Steps::Multiply, nbits, codes);
    for grid in grids {
        for (code, entry) in (0_u32..).zip(&mut *table) {
            *entry = (f64::from(code) * grid.scale + grid.bias) as f32;
        }
    }
    Ok(())
}

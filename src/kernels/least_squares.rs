//! Linear quantization with the scale and bias of least squared error, instead of those of the smallest and largest weight.
//!
//! Rounding makes the error a bumpy function of scale and bias, so the search is by parts, for each channel: ranges that
//! are shrunk step by step (a few outliers clipped, all others finer), then, from the best of them, in turn the codes for a scale and
//! bias and the scale and bias of least squared error for these codes (a linear regression), until nothing is gained.
//! Every candidate is judged as it would be stored: float32 scale and bias, decoded values rounded to float32. The range
//! from minimum to maximum, exactly as [`linear`](super::linear) quantizes, is the first candidate, so the result is never worse.
//!
//! Codes are `round((w - bias) / scale)`, half to even, clipped to those there are; symmetric quantization keeps `bias =
//! -2^(n-1) scale`. Sums run in a fixed order: the thread count changes no result.

use super::encode::{self, Grid, Steps, reciprocal, round_to_code, top_code};
use super::errors::ErrorSums;
use super::linear::{Error, Scheme, Settings, min_max_grids};
use super::{BLOCK, Layout, words};
use multiversion::multiversion;
use rayon::prelude::*;

/// Parts of a sum: enough to keep it in vector registers.
const LANES: usize = 8;

/// Shares of the full range that are tried, besides all of it.
const SHRUNK: [f64; 7] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3];

/// How often at most codes and regression take turns.
const TURNS: usize = 12;

/// The turns end when one gains less than this share of the error.
const GAIN: f64 = 1e-4;

/// As [`linear::quantize`](super::linear::quantize), with the scale and bias of least squared error.
///
/// # Errors
/// The same.
pub(crate) fn quantize(
    values: &[u8],
    layout: Layout,
    settings: Settings,
    codes: &mut [u8],
    scale: &mut [f32],
    bias: &mut [f32],
) -> Result<ErrorSums, Error> {
    let Settings { nbits, scheme, .. } = settings;
    let mut grids = min_max_grids(values, layout, nbits, scheme, scale, bias)?;
    let weights = words(values);
    let search = Search { nbits, scheme };
    let improve = |(channel, (grid, (scale, bias))): (usize, (&mut Grid, (&mut f32, &mut f32)))| {
        let first = Fit { encode: *grid, stored: Grid { scale: (*scale).into(), bias: (*bias).into() } };
        let best = if layout.is_contiguous() {
            search.best(&weights[channel * layout.inner..][..layout.inner], first)
        } else {
            search.best(&gather(weights, layout, channel), first)
        };
        (*grid, *scale, *bias) = (best.encode, best.stored.scale as f32, best.stored.bias as f32);
    };
    if weights.len() <= BLOCK {
        grids.iter_mut().zip(scale.iter_mut().zip(bias)).enumerate().for_each(improve);
    } else {
        grids.par_iter_mut().zip(scale.par_iter_mut().zip(bias)).enumerate().for_each(improve);
    }
    Ok(encode::encode(values, layout, &grids, codes, settings.encoding()))
}

/// The weights of a group whose runs lie apart.
fn gather(weights: &[[u8; 4]], layout: Layout, group: usize) -> Vec<[u8; 4]> {
    let Layout { outer, count, inner, .. } = layout;
    let slab = &weights[group / count * outer * count * inner..][..outer * count * inner];
    slab.chunks((count * inner).max(1)).flat_map(|runs| &runs[group % count * inner..][..inner]).copied().collect()
}

/// Parameters of a channel.
#[derive(Clone, Copy, Debug)]
struct Fit {
    /// What the codes are made with.
    encode: Grid,
    /// What is stored: float32 values.
    stored: Grid,
}

impl Fit {
    /// The parameters rounded to float32, if they have a normal scale and fit.
    fn rounded(scale: f64, bias: f64) -> Option<Self> {
        let (scale, bias) = (scale as f32, bias as f32);
        let grid = Grid { scale: scale.into(), bias: bias.into() };
        (scale.is_normal() && scale > 0.0 && bias.is_finite()).then_some(Self { encode: grid, stored: grid })
    }
}

/// Sums over the codes `q` of a channel and the errors `e = w - (q * scale + bias)`.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    q: f64,
    qq: f64,
    e: f64,
    qe: f64,
    ee: f64,
}

impl Sums {
    #[inline(always)]
    fn add(&mut self, other: Self) {
        self.q += other.q;
        self.qq += other.qq;
        self.e += other.e;
        self.qe += other.qe;
        self.ee += other.ee;
    }
}

/// What is the same for all channels.
#[derive(Clone, Copy, Debug)]
struct Search {
    nbits: u8,
    scheme: Scheme,
}

impl Search {
    /// The best parameters found for a channel, from those of its full range.
    fn best(self, weights: &[[u8; 4]], first: Fit) -> Fit {
        let (mut best, mut sums) = (first, self.sums(weights, first));
        if sums.ee == 0.0 {
            return best;
        }
        let mut last = sums.ee;
        for share in SHRUNK {
            let Some(fit) = self.shrunk(first, share) else { break };
            let found = self.sums(weights, fit);
            if found.ee < sums.ee {
                (best, sums) = (fit, found);
            } else if found.ee > 2.0 * sums.ee && found.ee > last {
                // So much is clipped that nothing narrower is better.
                break;
            }
            last = found.ee;
        }
        for _ in 0..TURNS {
            let Some(fit) = self.regression(weights.len(), best, sums) else { break };
            let found = self.sums(weights, fit);
            if found.ee.is_nan() || found.ee >= sums.ee {
                break;
            }
            let enough = sums.ee - found.ee < GAIN * sums.ee;
            (best, sums) = (fit, found);
            if enough {
                break;
            }
        }
        best
    }

    /// A range around the same middle.
    fn shrunk(self, Fit { encode: Grid { scale, bias }, .. }: Fit, share: f64) -> Option<Fit> {
        match self.scheme {
            Scheme::Linear => {
                let middle = bias + scale * top_code(self.nbits) / 2.0;
                Fit::rounded(scale * share, middle + (bias - middle) * share)
            }
            Scheme::Symmetric => self.symmetric(scale * share),
        }
    }

    fn symmetric(self, scale: f64) -> Option<Fit> {
        // From the rounded scale, so that zero is stored exactly.
        let scale = f64::from(scale as f32);
        Fit::rounded(scale, -self.zero_code() * scale)
    }

    /// The code of zero in symmetric quantization.
    fn zero_code(self) -> f64 {
        f64::from(1_u32 << (self.nbits - 1))
    }

    /// The parameters of least squared error for the codes that `fit` gives: a regression of the errors on the codes.
    fn regression(self, len: usize, Fit { stored: Grid { scale, bias }, .. }: Fit, sums: Sums) -> Option<Fit> {
        let n = len as f64;
        match self.scheme {
            Scheme::Linear => {
                let variance = n * sums.qq - sums.q * sums.q;
                let slope = if variance > 0.0 { (n * sums.qe - sums.q * sums.e) / variance } else { 0.0 };
                Fit::rounded(scale + slope, bias + (sums.e - slope * sums.q) / n)
            }
            Scheme::Symmetric => {
                // In c = q - zero.
                let zero = self.zero_code();
                let cc = sums.qq - 2.0 * zero * sums.q + n * zero * zero;
                self.symmetric(scale + if cc > 0.0 { (sums.qe - zero * sums.e) / cc } else { 0.0 })
            }
        }
    }

    fn sums(self, weights: &[[u8; 4]], fit: Fit) -> Sums {
        let block = |weights: &[[u8; 4]]| sums(weights, fit, self.scheme.steps(), top_code(self.nbits));
        if weights.len() <= BLOCK {
            return block(weights);
        }
        let blocks: Vec<Sums> = weights.par_chunks(BLOCK).map(block).collect();
        blocks.into_iter().fold(Sums::default(), |mut sum, block| {
            sum.add(block);
            sum
        })
    }
}

#[multiversion(targets = "simd")]
fn sums(weights: &[[u8; 4]], fit: Fit, steps: Steps, top: f64) -> Sums {
    let Grid { scale, bias } = fit.encode;
    match steps {
        Steps::Multiply => {
            let inverse = reciprocal(scale);
            sums_of(weights, fit.stored, |weight| round_to_code((weight - bias) * inverse, 0.0, top))
        }
        Steps::Divide => sums_of(weights, fit.stored, |weight| round_to_code((weight - bias) / scale, 0.0, top)),
    }
}

#[inline(always)]
fn sums_of(weights: &[[u8; 4]], Grid { scale, bias }: Grid, code: impl Fn(f64) -> u8) -> Sums {
    let term = |bytes: [u8; 4]| {
        let weight = f64::from(f32::from_le_bytes(bytes));
        let q = f64::from(code(weight));
        let e = weight - f64::from((q * scale + bias) as f32);
        Sums { q, qq: q * q, e, qe: q * e, ee: e * e }
    };
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let mut lanes = [Sums::default(); LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i].add(term(chunk[i]));
        }
    }
    let mut sums = Sums::default();
    for lane in lanes {
        sums.add(lane);
    }
    for &bytes in rest {
        sums.add(term(bytes));
    }
    sums
}

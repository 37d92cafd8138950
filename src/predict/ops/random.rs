//! Random layers: values of our own generator, which is the same on every machine; shapes are Core ML's.
//!
//! Each layer draws a number from [`Context::random`] and seeds a PCG64 with it and its own `seed`. Uniform numbers
//! are 53 bits wide; normal ones come in pairs by Box and Muller's formula.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::checks::{Outputs, around, at_least, count, dims, one, parameter, values};
use super::{Context, uncertain};
use crate::format::proto::CategoricalDistributionLayerParams;
use crate::predict::tensor::{LayerError, Tensor};

/// Where the shape comes from.
pub(super) enum Shape<'a> {
    /// That of the input.
    Like,
    /// A parameter.
    Static(&'a [u64]),
    /// The values of the input.
    Dynamic,
}

impl Shape<'_> {
    fn dims(&self, inputs: &[Tensor]) -> Result<Vec<usize>, LayerError> {
        match self {
            Self::Like => Ok(one(inputs)?.shape().to_vec()),
            Self::Static(shape) => {
                count(inputs, 0..=0, "no input")?;
                dims("outputShape", shape)
            }
            Self::Dynamic => super::fill::shape_of(one(inputs)?, 0),
        }
    }
}

/// The generator of one layer.
fn generator(seed: i64, cx: &mut Context) -> Pcg64 {
    cx.note(uncertain::RANDOM);
    let key = cx.random.next_u64();
    Pcg64::seed_from_u64(key ^ seed.cast_unsigned())
}

/// At least 0, less than 1.
fn unit(random: &mut Pcg64) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

fn drawn(
    shape: &Shape<'_>,
    seed: i64,
    inputs: &[Tensor],
    cx: &mut Context,
    mut draw: impl FnMut(&mut Pcg64) -> f64,
) -> Outputs {
    let shape = shape.dims(inputs)?;
    let mut random = generator(seed, cx);
    Ok(vec![cx.tensor(&shape, |size| (0..size).map(|_| draw(&mut random) as f32).collect())?])
}

pub(super) fn normal(
    shape: &Shape<'_>,
    seed: i64,
    mean: f32,
    deviation: f32,
    inputs: &[Tensor],
    cx: &mut Context,
) -> Outputs {
    let mut second = None;
    drawn(shape, seed, inputs, cx, |random| {
        let value = second.take().unwrap_or_else(|| {
            // 1 - u is never 0.
            let radius = (-2.0 * (1.0 - unit(random)).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * unit(random)).sin_cos();
            second = Some(radius * sin);
            radius * cos
        });
        f64::from(mean) + f64::from(deviation) * value
    })
}

pub(super) fn uniform(
    shape: &Shape<'_>,
    seed: i64,
    (low, high): (f32, f32),
    inputs: &[Tensor],
    cx: &mut Context,
) -> Outputs {
    drawn(shape, seed, inputs, cx, |random| f64::from(low) + (f64::from(high) - f64::from(low)) * unit(random))
}

pub(super) fn bernoulli(shape: &Shape<'_>, seed: i64, prob: f32, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    drawn(shape, seed, inputs, cx, |random| f64::from(u8::from(unit(random) < f64::from(prob))))
}

/// `categoricalDistribution`: indices along the last axis, drawn by their probabilities.
pub(super) fn categorical(params: &CategoricalDistributionLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let x = one(inputs)?;
    at_least(x, 0, 1)?;
    let (outer, classes, _) = around(x.shape(), x.ndim() - 1);
    let samples = usize::try_from(params.num_samples).ok().filter(|&samples| samples >= 1);
    let samples = samples.ok_or_else(|| parameter("numSamples", params.num_samples, "at least 1"))?;
    if classes == 0 {
        return Err(LayerError::InputShape {
            input: 0,
            found: x.shape().to_vec(),
            expected: "at least one class".into(),
        });
    }
    let temperature = f64::from(if params.temperature == 0.0 { 1.0 } else { params.temperature });
    let epsilon = f64::from(params.eps);
    let mut random = generator(params.seed, cx);
    let mut shape = x.shape().to_vec();
    shape[x.ndim() - 1] = samples;
    let source = values(x);
    let y = cx.tensor(&shape, |size| {
        let mut y = Vec::with_capacity(size);
        let mut sums = vec![0.0; classes];
        for row in source.chunks_exact(classes).take(outer) {
            let logits = |v: f32| if params.is_logits { f64::from(v) } else { (f64::from(v) + epsilon).ln() };
            let max = row.iter().map(|&v| logits(v)).fold(f64::NEG_INFINITY, f64::max);
            let mut sum = 0.0;
            for (total, &v) in sums.iter_mut().zip(row) {
                sum += ((logits(v) - max) / temperature).exp();
                *total = sum;
            }
            for _ in 0..samples {
                let drawn = unit(&mut random) * sum;
                let class = sums.iter().position(|&total| drawn < total).unwrap_or(classes - 1);
                y.push(class as f32);
            }
        }
        y
    })?;
    Ok(vec![y])
}

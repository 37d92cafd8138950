//! batchnorm and layerNormalization: `(x - mean) / sqrt(variance + epsilon) * gamma + beta`.
//!
//! Variances are those of the whole population. Statistics are made in float64.

use crate::format::proto::{BatchnormLayerParams, LayerNormalizationLayerParams};
use crate::predict::tensor::{LayerError, Tensor};
use crate::predict::weights::Weights;

use super::values::{row_major, single, size, split_axes, tensor, unsigned, wrong_shape};
use super::{Limits, PrepareError, Prepared};

/// What is added to a variance where the layer does not say.
const EPSILON: f32 = 1e-5;

/// Where the mean and the variance of a batchnorm come from.
#[derive(Debug)]
enum Statistics {
    Stored {
        mean: Vec<f32>,
        variance: Vec<f32>,
    },
    /// Of a channel of the whole input.
    OfChannel,
    /// Of a channel of one sample.
    OfInstance,
}

/// batchnorm, along the third axis from the last.
#[derive(Debug)]
pub(super) struct BatchNorm {
    channels: usize,
    epsilon: f32,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    statistics: Statistics,
}

impl BatchNorm {
    pub(super) fn new(p: &BatchnormLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let statistics = if p.instance_normalization {
            Statistics::OfInstance
        } else if p.compute_mean_var {
            Statistics::OfChannel
        } else {
            Statistics::Stored { mean: weights.require("mean")?, variance: weights.require("variance")? }
        };
        Ok(Self {
            channels: size("channels", p.channels)?,
            epsilon: if p.epsilon == 0.0 { EPSILON } else { p.epsilon },
            gamma: weights.require("gamma")?,
            beta: weights.require("beta")?,
            statistics,
        })
    }

    fn normalize(&self, values: &mut [f32], channel: usize, mean: f32, variance: f32) {
        let (scale, shift) = (self.gamma[channel] / (variance + self.epsilon).sqrt(), self.beta[channel]);
        values.iter_mut().for_each(|value| *value = (*value - mean) * scale + shift);
    }
}

/// Mean and variance.
fn statistics<'v>(values: impl Iterator<Item = &'v f32> + Clone) -> (f32, f32) {
    let (sum, count) = values.clone().fold((0.0, 0.0), |(sum, count), &value| (sum + f64::from(value), count + 1.0));
    let mean = sum / count;
    let squares: f64 = values.map(|&value| (f64::from(value) - mean).powi(2)).sum();
    (mean as f32, (squares / count) as f32)
}

impl Prepared for BatchNorm {
    fn eval(&self, inputs: &[Tensor], _: Limits) -> Result<Vec<Tensor>, LayerError> {
        let input = single(inputs)?;
        let (_, inner) = split_axes(input, 3, "channel, height, width")?;
        if inner[0] != self.channels {
            return Err(wrong_shape(0, input, format!("{} channels", self.channels)));
        }
        let plane = inner[1] * inner[2];
        let mut out = row_major(input).into_owned();
        if !out.is_empty() {
            match &self.statistics {
                Statistics::Stored { mean, variance } => {
                    for (index, values) in out.chunks_mut(plane).enumerate() {
                        let channel = index % self.channels;
                        self.normalize(values, channel, mean[channel], variance[channel]);
                    }
                }
                Statistics::OfInstance => {
                    for (index, values) in out.chunks_mut(plane).enumerate() {
                        let (mean, variance) = statistics(values.iter());
                        self.normalize(values, index % self.channels, mean, variance);
                    }
                }
                Statistics::OfChannel => {
                    for channel in 0..self.channels {
                        let planes = out.chunks(plane).skip(channel).step_by(self.channels);
                        let (mean, variance) = statistics(planes.flatten());
                        for values in out.chunks_mut(plane).skip(channel).step_by(self.channels) {
                            self.normalize(values, channel, mean, variance);
                        }
                    }
                }
            }
        }
        Ok(vec![tensor(input.shape(), out)?])
    }
}

/// layerNormalization, over the last axes.
#[derive(Debug)]
pub(super) struct LayerNorm {
    shape: Vec<usize>,
    epsilon: f32,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl LayerNorm {
    pub(super) fn new(p: &LayerNormalizationLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let len = |&len: &i64| unsigned("normalizedShape", len).and_then(|len| size("normalizedShape", len));
        Ok(Self {
            shape: p.normalized_shape.iter().map(len).collect::<Result<_, _>>()?,
            epsilon: if p.eps == 0.0 { EPSILON } else { p.eps },
            gamma: weights.require("gamma")?,
            beta: weights.require("beta")?,
        })
    }
}

impl Prepared for LayerNorm {
    fn eval(&self, inputs: &[Tensor], _: Limits) -> Result<Vec<Tensor>, LayerError> {
        let input = single(inputs)?;
        if self.shape.is_empty() || !input.shape().ends_with(&self.shape) {
            return Err(wrong_shape(0, input, format!("{:?} at the end", self.shape)));
        }
        let mut out = row_major(input).into_owned();
        let len: usize = self.shape.iter().product();
        if !out.is_empty() {
            for values in out.chunks_mut(len) {
                let (mean, variance) = statistics(values.iter());
                let scale = 1.0 / (variance + self.epsilon).sqrt();
                for ((value, gamma), beta) in values.iter_mut().zip(&self.gamma).zip(&self.beta) {
                    *value = (*value - mean) * scale * gamma + beta;
                }
            }
        }
        Ok(vec![tensor(input.shape(), out)?])
    }
}

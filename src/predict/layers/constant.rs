//! Layers of stored values and little arithmetic: scale, bias, loadConstant, loadConstantND, and the activations PReLU
//! and parametricSoftplus.
//!
//! A constant of the shape `[C]` goes along the third axis from the last, as `[C, 1, 1]`.

use crate::format::proto::{BiasLayerParams, LoadConstantLayerParams, LoadConstantNdLayerParams, ScaleLayerParams};
use crate::predict::tensor::{LayerError, Tensor};
use crate::predict::weights::Weights;

use super::values::{result_len, row_major, single, size, split_axes, tensor, wrong_shape};
use super::{Limits, PrepareError, Prepared};

/// Values for the last three axes, each axis whole or 1.
#[derive(Debug)]
struct Broadcast {
    shape: [usize; 3],
    values: Vec<f32>,
}

impl Broadcast {
    fn new(name: &'static str, shape: &[u64], values: Vec<f32>) -> Result<Self, PrepareError> {
        let shape = match *shape {
            [channels] => [size(name, channels)?, 1, 1],
            [channels, height, width] => [size(name, channels)?, size(name, height)?, size(name, width)?],
            _ => {
                let found = format!("{} numbers", shape.len());
                return Err(LayerError::Parameter { name, found, expected: "one or three".to_owned() }.into());
            }
        };
        Ok(Self { shape, values })
    }

    /// Joins a tensor with the constant, value by value.
    fn apply(&self, out: &mut [f32], input: &Tensor, join: impl Fn(&mut f32, f32)) -> Result<(), LayerError> {
        if let [value] = self.values[..] {
            out.iter_mut().for_each(|out| join(out, value));
            return Ok(());
        }
        let (_, inner) = split_axes(input, 3, "channel, height, width")?;
        if !self.shape.iter().zip(inner).all(|(&own, &len)| own == len || own == 1) {
            return Err(wrong_shape(0, input, format!("what {:?} can be broadcast to", self.shape)));
        }
        if out.is_empty() {
            return Ok(());
        }
        let [_, height, width] = self.shape;
        let step = |axis: usize, len: usize| if self.shape[axis] == 1 { 0 } else { len };
        let (by_channel, by_row, by_column) = (step(0, height * width), step(1, width), step(2, 1));
        for (line, out) in out.chunks_mut(inner[2]).enumerate() {
            let (channel, row) = (line / inner[1] % inner[0], line % inner[1]);
            let first = channel * by_channel + row * by_row;
            if by_column == 0 {
                let value = self.values[first];
                out.iter_mut().for_each(|out| join(out, value));
            } else {
                out.iter_mut().zip(&self.values[first..]).for_each(|(out, &value)| join(out, value));
            }
        }
        Ok(())
    }
}

/// `x * scale + bias`.
#[derive(Debug)]
pub(super) struct Affine {
    scale: Option<Broadcast>,
    bias: Option<Broadcast>,
}

impl Affine {
    pub(super) fn scale(p: &ScaleLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let bias = weights.get("bias")?.map(|bias| Broadcast::new("shapeBias", &p.shape_bias, bias)).transpose()?;
        Ok(Self { scale: Some(Broadcast::new("shapeScale", &p.shape_scale, weights.require("scale")?)?), bias })
    }

    pub(super) fn bias(p: &BiasLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        Ok(Self { scale: None, bias: Some(Broadcast::new("shape", &p.shape, weights.require("bias")?)?) })
    }
}

impl Prepared for Affine {
    fn eval(&self, inputs: &[Tensor], _: Limits) -> Result<Vec<Tensor>, LayerError> {
        let input = single(inputs)?;
        let mut out = row_major(input).into_owned();
        if let Some(scale) = &self.scale {
            scale.apply(&mut out, input, |out, scale| *out *= scale)?;
        }
        if let Some(bias) = &self.bias {
            bias.apply(&mut out, input, |out, bias| *out += bias)?;
        }
        Ok(vec![tensor(input.shape(), out)?])
    }
}

/// A tensor out of nothing.
#[derive(Debug)]
pub(super) struct Constant(Tensor);

impl Constant {
    /// Five axes, the last three stored.
    pub(super) fn legacy(p: &LoadConstantLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let mut shape = vec![1; 5_usize.saturating_sub(p.shape.len())];
        for &len in &p.shape {
            shape.push(size("shape", len)?);
        }
        Self::of(&shape, weights)
    }

    pub(super) fn nd(p: &LoadConstantNdLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let shape: Vec<usize> = p.shape.iter().map(|&len| size("shape", len)).collect::<Result<_, _>>()?;
        Self::of(&shape, weights)
    }

    fn of(shape: &[usize], weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let values = weights.require("data")?;
        result_len(shape, usize::MAX)?;
        Ok(Self(tensor(shape, values)?))
    }
}

impl Prepared for Constant {
    fn eval(&self, _: &[Tensor], _: Limits) -> Result<Vec<Tensor>, LayerError> {
        Ok(vec![self.0.clone()])
    }
}

/// Applies a function of the value and its channel's index.
fn by_channel(input: &Tensor, parameters: &[&[f32]], apply: impl Fn(f32, usize) -> f32) -> Result<Tensor, LayerError> {
    let (channels, plane) = if parameters.iter().all(|parameter| parameter.len() == 1) {
        (1, input.len())
    } else {
        let (_, inner) = split_axes(input, 3, "channel, height, width")?;
        (inner[0], inner[1] * inner[2])
    };
    // Packed codes may hold a few more values than there are channels.
    if let Some(parameter) = parameters.iter().find(|parameter| parameter.len() != 1 && parameter.len() < channels) {
        return Err(wrong_shape(0, input, format!("{} channels", parameter.len())));
    }
    let mut out = row_major(input).into_owned();
    if !out.is_empty() {
        for (index, values) in out.chunks_mut(plane).enumerate() {
            let channel = index % channels;
            values.iter_mut().for_each(|value| *value = apply(*value, channel));
        }
    }
    tensor(input.shape(), out)
}

/// A parameter of a channel; one is for all.
fn of_channel(parameter: &[f32], channel: usize) -> f32 {
    if let [value] = *parameter { value } else { parameter[channel] }
}

/// `x`, or `alpha * x` below zero.
#[derive(Debug)]
pub(super) struct Prelu {
    alpha: Vec<f32>,
}

impl Prelu {
    pub(super) fn new(weights: &Weights<'_>) -> Result<Self, PrepareError> {
        Ok(Self { alpha: weights.require("PReLU.alpha")? })
    }
}

impl Prepared for Prelu {
    fn eval(&self, inputs: &[Tensor], _: Limits) -> Result<Vec<Tensor>, LayerError> {
        let relu = |value: f32, channel| if value < 0.0 { value * of_channel(&self.alpha, channel) } else { value };
        Ok(vec![by_channel(single(inputs)?, &[&self.alpha], relu)?])
    }
}

/// `alpha * log(1 + e^(beta * x))`.
#[derive(Debug)]
pub(super) struct ParametricSoftplus {
    alpha: Vec<f32>,
    beta: Vec<f32>,
}

impl ParametricSoftplus {
    pub(super) fn new(weights: &Weights<'_>) -> Result<Self, PrepareError> {
        Ok(Self {
            alpha: weights.require("parametricSoftplus.alpha")?,
            beta: weights.require("parametricSoftplus.beta")?,
        })
    }
}

impl Prepared for ParametricSoftplus {
    fn eval(&self, inputs: &[Tensor], _: Limits) -> Result<Vec<Tensor>, LayerError> {
        let softplus = |value: f32, channel| {
            let value = value * of_channel(&self.beta, channel);
            of_channel(&self.alpha, channel) * (value.max(0.0) + (-value.abs()).exp().ln_1p())
        };
        Ok(vec![by_channel(single(inputs)?, &[&self.alpha, &self.beta], softplus)?])
    }
}

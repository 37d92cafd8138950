//! What a batchnorm, scale or bias layer computes: `scale * x + shift`, in float64.

use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{NeuralNetworkLayer, WeightParams};
use crate::network::layers::{self, Weight};

use super::report::FoldReason;
use super::values::{float_values, to_f64};

/// What Core ML takes for a batchnorm's epsilon of zero.
const DEFAULT_EPSILON: f64 = 1e-5;

/// Along which axis values differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// None: a single value.
    All,
    /// The third from the end: the channels of everything that has height and width.
    Channel,
    /// The last.
    Last,
    /// Another one, or nobody knows which: no layer that is folded goes along it.
    Other,
}

impl Axis {
    /// The axis along which a weight of this shape is broadcast.
    pub(super) fn of_shape(dims: &[usize]) -> Self {
        match dims {
            [1] | [1, 1, 1] => Self::All,
            [_] | [_, 1, 1] => Self::Channel,
            [1, 1, _] => Self::Last,
            _ => Self::Other,
        }
    }
}

/// `scale * x + shift`, with one value of each, or as many as there are channels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine {
    pub axis: Axis,
    pub scale: Vec<f64>,
    pub shift: Vec<f64>,
    /// The dimensions of the shift, as its layer states them.
    pub shift_shape: Vec<u64>,
}

impl Affine {
    /// What a layer computes.
    ///
    /// # Errors
    ///
    /// Why that cannot be said, or is not along one axis.
    pub(super) fn of(layer: &NeuralNetworkLayer) -> Result<Self, FoldReason> {
        let weights = layers::weights(layer);
        match (&layer.layer, &weights[..]) {
            (Some(Layer::Batchnorm(params)), [gamma, beta, mean, variance]) => {
                if params.compute_mean_var || params.instance_normalization {
                    return Err(FoldReason::RunTimeStatistics);
                }
                let epsilon = if params.epsilon == 0.0 { DEFAULT_EPSILON } else { params.epsilon.into() };
                let values = |weight| Ok(to_f64(&float_values(weight)?.0));
                let (beta, mean): (Vec<f64>, Vec<f64>) = (values(beta)?, values(mean)?);
                let scale: Vec<f64> = values(gamma)?
                    .into_iter()
                    .zip(values(variance)?)
                    .map(|(gamma, variance)| gamma / (variance + epsilon).sqrt())
                    .collect();
                let shift =
                    beta.iter().zip(mean).zip(&scale).map(|((beta, mean), scale)| beta - mean * scale).collect();
                Ok(Self { axis: Axis::Channel, scale, shift, shift_shape: vec![params.channels] })
            }
            (Some(Layer::Scale(params)), [scale, bias @ ..]) => {
                let (scale_axis, scale) = along_axis(scale)?;
                let (shift_axis, shift, shift_shape) = match bias {
                    [bias] => {
                        let (axis, values) = along_axis(bias)?;
                        (axis, values, params.shape_bias.clone())
                    }
                    _ => (Axis::All, vec![0.0], vec![1]),
                };
                let axis = if scale_axis == Axis::All { shift_axis } else { scale_axis };
                let len = scale.len().max(shift.len());
                let fits = |axis_of, values: &[f64]| axis_of == Axis::All || (axis_of == axis && values.len() == len);
                if !(fits(scale_axis, &scale) && fits(shift_axis, &shift)) {
                    return Err(FoldReason::Shape);
                }
                Ok(Self { axis, scale: repeated(scale, len), shift: repeated(shift, len), shift_shape })
            }
            (Some(Layer::Bias(params)), [bias]) => {
                let (axis, shift) = along_axis(bias)?;
                Ok(Self { axis, scale: vec![1.0; shift.len()], shift, shift_shape: params.shape.clone() })
            }
            _ => Err(FoldReason::Weights),
        }
    }

    /// The single values of this one, along the axis of another.
    pub(super) fn repeated_like(&self, other: &Self) -> Self {
        let len = other.scale.len();
        Self {
            axis: other.axis,
            scale: repeated(self.scale.clone(), len),
            shift: repeated(self.shift.clone(), len),
            shift_shape: other.shift_shape.clone(),
        }
    }

    /// Whether anything is multiplied.
    pub(super) fn has_scale(&self) -> bool {
        self.scale.iter().any(|&scale| scale != 1.0)
    }

    /// Whether anything is added.
    pub(super) fn has_shift(&self) -> bool {
        self.shift.iter().any(|&shift| shift != 0.0)
    }

    /// What results when `next` follows; `None` unless both go along the same axis.
    ///
    /// The axis and length of this one hold: a single value of `next` is repeated.
    pub(super) fn then(&self, next: &Self) -> Option<Self> {
        let len = self.scale.len();
        if !(next.axis == Axis::All || (next.axis == self.axis && next.scale.len() == len)) {
            return None;
        }
        let (scale, shift) = (next.scale.iter().cycle(), next.shift.iter().cycle());
        Some(Self {
            axis: self.axis,
            scale: self.scale.iter().zip(scale.clone()).map(|(mine, next)| mine * next).collect(),
            shift: self.shift.iter().zip(scale).zip(shift).map(|((mine, scale), shift)| mine * scale + shift).collect(),
            shift_shape: self.shift_shape.clone(),
        })
    }
}

/// A single value as many times as there are channels.
fn repeated(values: Vec<f64>, len: usize) -> Vec<f64> {
    if let [value] = values[..] { vec![value; len] } else { values }
}

/// The values of a weight, and the axis along which they differ.
pub(super) fn along_axis(weight: &Weight<&WeightParams>) -> Result<(Axis, Vec<f64>), FoldReason> {
    let (values, shape) = float_values(weight)?;
    match Axis::of_shape(&shape.dims) {
        Axis::Other => Err(FoldReason::Shape),
        axis => Ok((axis, to_f64(&values))),
    }
}

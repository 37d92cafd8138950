//! The layer that others are folded into, and the change to its weights.

use crate::format::proto::neural_network_layer::Layer;
use crate::format::proto::{NeuralNetworkLayer, WeightParams};
use crate::format::weight_params::FloatValues;
use crate::network::layers::{self, Weight};
use crate::network::{rules, weights as listing};

use super::affine::{Affine, Axis, along_axis};
use super::report::FoldReason;
use super::values::{Rows, float_values, to_f64, widened};

/// Whether a layer of the second kind can be folded into one of the first, everything else being right.
pub(super) fn takes(layer: &NeuralNetworkLayer, next: &NeuralNetworkLayer) -> bool {
    matches!(
        (&layer.layer, &next.layer),
        (
            Some(Layer::Convolution(_) | Layer::Convolution3d(_) | Layer::InnerProduct(_) | Layer::BatchedMatmul(_)),
            Some(Layer::Batchnorm(_) | Layer::Scale(_) | Layer::Bias(_)),
        ) | (Some(Layer::Batchnorm(_)), Some(Layer::Scale(_) | Layer::Bias(_)))
            | (Some(Layer::Scale(_)), Some(Layer::Bias(_)))
    )
}

/// Whether anything can be folded into a layer of this kind.
pub(super) fn is_target(layer: &NeuralNetworkLayer) -> bool {
    matches!(
        layer.layer,
        Some(
            Layer::Convolution(_)
                | Layer::Convolution3d(_)
                | Layer::InnerProduct(_)
                | Layer::BatchedMatmul(_)
                | Layer::Batchnorm(_)
                | Layer::Scale(_)
        )
    )
}

/// What the layer is to compute: `scale` times the product with its first weight, plus `shift`.
///
/// A chain of layers is gathered here, so that weights are multiplied, and rounded to float32, once.
#[derive(Debug)]
pub(super) struct Target {
    /// The layer's own bias, and everything folded since.
    result: Affine,
    /// Whether the layer has a bias of its own.
    has_bias: bool,
    /// Whether it may gain one.
    may_gain_bias: bool,
    /// What is multiplied.
    factor: Factor,
}

#[derive(Debug)]
enum Factor {
    /// The weight of each output channel.
    Channels {
        values: FloatValues,
        rows: Rows,
        /// The largest magnitude of each channel.
        magnitudes: Vec<f64>,
    },
    /// The scale of a `scale` layer, of whatever shape. It stays as it is, and its bias may take another shape.
    Fixed {
        /// Its channels, if it has any.
        channels: Option<usize>,
    },
}

impl Target {
    /// How many output channels there are.
    pub(super) fn channels(&self) -> usize {
        self.result.shift.len()
    }

    /// A layer as it is. `rank` is that of its output, if known.
    ///
    /// # Errors
    ///
    /// Why nothing can be folded into it.
    pub(super) fn of(layer: &NeuralNetworkLayer, rank: Rank) -> Result<Self, FoldReason> {
        let weights = layers::weights(layer);
        let [factor, others @ ..] = &weights[..] else { return Err(FoldReason::DynamicWeights) };
        // All float weights of a layer agree in their type, so all of them must be readable.
        for weight in others.iter().filter(|weight| listing::counts(weight)) {
            float_values(weight)?;
        }
        let (values, shape) = float_values(factor)?;
        let bias = others.first();
        if let Some(Layer::Scale(params)) = &layer.layer {
            let channels = (Axis::of_shape(&shape.dims) == Axis::Channel).then_some(shape.units);
            let (axis, shift, shift_shape) = match bias {
                Some(bias) => {
                    let (axis, values) = along_axis(bias)?;
                    (axis, values, params.shape_bias.clone())
                }
                None => (Axis::All, vec![0.0], vec![1]),
            };
            let result = Affine { axis, scale: vec![1.0; shift.len()], shift, shift_shape };
            let factor = Factor::Fixed { channels };
            return Ok(Self { result, has_bias: bias.is_some(), may_gain_bias: true, factor });
        }
        let axis = match &layer.layer {
            Some(Layer::Convolution(_) | Layer::Batchnorm(_)) => Axis::Channel,
            Some(Layer::InnerProduct(_)) => rank.of_channels(),
            Some(Layer::BatchedMatmul(params)) if !params.transpose_b => Axis::Last,
            // The channels of a three-dimensional convolution are the fourth axis from the end.
            _ => Axis::Other,
        };
        let count = match (&layer.layer, &shape.channels) {
            (Some(Layer::Batchnorm(_)), _) => shape.units,
            (_, Some(_)) => shape.channel_count(),
            (_, None) => return Err(FoldReason::Weights),
        };
        let shift = match bias {
            Some(bias) => to_f64(&float_values(bias)?.0),
            None => vec![0.0; count],
        };
        let rows = Rows::of(shape);
        let magnitudes = rows.magnitudes(&values, count);
        Ok(Self {
            result: Affine { axis, scale: vec![1.0; count], shift, shift_shape: vec![count as u64] },
            has_bias: bias.is_some(),
            may_gain_bias: !rules::int8_dynamic(layer).is_some_and(|int8| int8.enabled),
            factor: Factor::Channels { values, rows, magnitudes },
        })
    }

    /// Adds a layer that follows.
    ///
    /// # Errors
    ///
    /// Why it cannot be folded; nothing has changed then.
    pub(super) fn fold(&mut self, next: &Affine) -> Result<(), FoldReason> {
        let result = match &self.factor {
            Factor::Channels { .. } => self.result.then(next),
            Factor::Fixed { channels }
                if next.axis == Axis::Channel && channels.is_some_and(|n| n != next.scale.len()) =>
            {
                None
            }
            Factor::Fixed { .. } if self.result.axis == Axis::All => self.result.repeated_like(next).then(next),
            Factor::Fixed { .. } => self.result.then(next),
        };
        let result = result.ok_or(FoldReason::Shape)?;
        if !self.has_bias && !self.may_gain_bias && result.has_shift() {
            return Err(FoldReason::Int8Bias);
        }
        let is_finite = |value: f64| (value as f32).is_finite();
        let factors_are_finite = match &self.factor {
            Factor::Channels { magnitudes, .. } => {
                result.scale.iter().zip(magnitudes).all(|(scale, magnitude)| is_finite(scale * magnitude))
            }
            Factor::Fixed { .. } => true,
        };
        if !factors_are_finite || !result.shift.iter().copied().all(is_finite) {
            return Err(FoldReason::NonFinite);
        }
        self.result = result;
        Ok(())
    }

    /// Changes the layer's weights to what was gathered, all of them in float32.
    pub(super) fn apply(self, layer: &mut NeuralNetworkLayer) {
        let Self { result, has_bias, factor, .. } = self;
        let mut multiplied = match factor {
            Factor::Channels { values, rows, .. } if result.has_scale() => {
                Some(rows.multiplied(&values, &result.scale))
            }
            Factor::Channels { values, .. } => Some(values),
            Factor::Fixed { .. } => None,
        };
        for Weight { params, .. } in layers::weights_mut(layer) {
            let Some(params) = params else { continue };
            // The first weight is the one that is multiplied.
            if let Some(values) = multiplied.take() {
                *params = WeightParams { float_value: values, ..WeightParams::default() };
            } else if !params.float16_value.is_empty() {
                *params = WeightParams { float_value: widened(&params.float16_value), ..WeightParams::default() };
            }
        }
        if has_bias || result.has_shift() {
            let bias = result.shift.iter().map(|&value| value as f32).collect();
            let bias = WeightParams { float_value: bias, ..WeightParams::default() };
            layers::fold::set_bias(layer, &result.shift_shape, bias);
        }
    }
}

/// The rank of an array, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    Known(u32),
    /// Four or five, the last two of them height and width.
    WithHeightAndWidth,
    Unknown,
}

impl Rank {
    /// The axis of the output channels of an inner product: it has a height and width of 1 from four dimensions on.
    fn of_channels(self) -> Axis {
        match self {
            Self::WithHeightAndWidth | Self::Known(4 | 5) => Axis::Channel,
            Self::Known(1..=3) => Axis::Last,
            Self::Known(_) | Self::Unknown => Axis::Other,
        }
    }
}

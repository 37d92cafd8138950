//! convolution and convolution3d, both also as deconvolution.
//!
//! Windows along an axis of `n` values, with stride `s`, padding `a` and `b`, and the effective kernel
//! `k' = (k - 1) * dilation + 1`: `floor((n + a + b - k') / s) + 1` outputs; with `same` padding `ceil(n / s)`, and the
//! padding that this takes, its odd part at the end unless the top left is to be heavy. A deconvolution makes
//! `(n - 1) * s + k'` outputs and crops them by its padding; with `same` padding there are `n * s`. Dilation counts in
//! both directions.

use crate::format::proto::convolution_layer_params::ConvolutionPaddingType;
use crate::format::proto::convolution3_d_layer_params::PaddingType;
use crate::format::proto::same_padding::SamePaddingMode;
use crate::format::proto::{BorderAmounts, Convolution3DLayerParams, ConvolutionLayerParams};
use crate::predict::engine::{self, Axis, Geometry};
use crate::predict::tensor::{LayerError, Tensor};
use crate::predict::weights::Weights;

use super::values::{positive, result_len, row_major, size, split_axes, tensor, unsigned, wrong_shape};
use super::{Limits, PrepareError, Prepared, uncertain};

/// Names of the last axes, by their number.
const NAMES: [&str; 2] = ["channel, height, width", "channel, depth, height, width"];

/// Padding along one axis.
#[derive(Clone, Copy, Debug)]
pub(super) enum Padding {
    /// So much at the start and at the end.
    Fixed { before: usize, after: usize },
    /// As much as keeps the size, apart from the stride; the odd part at the start or at the end.
    Same { heavy_start: bool },
}

/// What is given along one axis.
#[derive(Clone, Copy, Debug)]
struct Spec {
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: Padding,
    /// The size a deconvolution is to have.
    target: Option<usize>,
}

/// A convolution of either kind.
#[derive(Debug)]
pub(super) struct Convolution {
    outputs: usize,
    groups: usize,
    /// Channels of the input, if the layer says.
    inputs: usize,
    transposed: bool,
    /// Two or three axes.
    axes: Vec<Spec>,
    /// `None`: the second input.
    weights: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

/// The amounts of an axis, zeros where there are none.
pub(super) fn border(amounts: Option<&BorderAmounts>, axis: usize) -> Result<(usize, usize), LayerError> {
    match amounts.map(|amounts| &amounts.border_amounts[..]) {
        None | Some([]) => Ok((0, 0)),
        Some(edges) if edges.len() == 2 => {
            let edge = edges[axis];
            Ok((size("startEdgeSize", edge.start_edge_size)?, size("endEdgeSize", edge.end_edge_size)?))
        }
        Some(edges) => Err(LayerError::Parameter {
            name: "borderAmounts",
            found: format!("{} pairs", edges.len()),
            expected: "two, for height and width".to_owned(),
        }),
    }
}

/// A number an axis, `default` where none are given.
pub(super) fn per_axis(name: &'static str, values: &[u64], default: usize) -> Result<[usize; 2], LayerError> {
    match *values {
        [] => Ok([default; 2]),
        [height, width] => Ok([positive(name, height, default)?, positive(name, width, default)?]),
        _ => Err(LayerError::Parameter {
            name,
            found: format!("{} numbers", values.len()),
            expected: "two, for height and width".to_owned(),
        }),
    }
}

impl Convolution {
    pub(super) fn flat(p: &ConvolutionLayerParams, weights: &Weights<'_>, inputs: usize) -> Result<Self, PrepareError> {
        let kernel = per_axis("kernelSize", &p.kernel_size, 3)?;
        let stride = per_axis("stride", &p.stride, 1)?;
        let dilation = per_axis("dilationFactor", &p.dilation_factor, 1)?;
        let target = match *p.output_shape {
            [] => [None, None],
            _ if !p.is_deconvolution => [None, None],
            _ => per_axis("outputShape", &p.output_shape, 0)?.map(Some),
        };
        let mut axes = Vec::with_capacity(2);
        for axis in 0..2 {
            let padding = match &p.convolution_padding_type {
                Some(ConvolutionPaddingType::Same(same)) => {
                    Padding::Same { heavy_start: same.asymmetry_mode() == SamePaddingMode::TopLeftHeavy }
                }
                Some(ConvolutionPaddingType::Valid(valid)) => {
                    let (before, after) = border(valid.padding_amounts.as_ref(), axis)?;
                    Padding::Fixed { before, after }
                }
                None => Padding::Fixed { before: 0, after: 0 },
            };
            let (kernel, stride, dilation, target) = (kernel[axis], stride[axis], dilation[axis], target[axis]);
            axes.push(Spec { kernel, stride, dilation, padding, target });
        }
        let groups = positive("nGroups", p.n_groups, 1)?;
        let kernel_channels = size("kernelChannels", p.kernel_channels)?;
        Self {
            outputs: size("outputChannels", p.output_channels)?,
            groups,
            inputs: if p.is_deconvolution { kernel_channels } else { kernel_channels.saturating_mul(groups) },
            transposed: p.is_deconvolution,
            axes,
            weights: if inputs > 1 { None } else { Some(weights.require("weights")?) },
            bias: weights.get("bias")?,
        }
        .checked()
    }

    pub(super) fn deep(p: &Convolution3DLayerParams, weights: &Weights<'_>) -> Result<Self, PrepareError> {
        let number = |name, value: i32| unsigned(name, value).and_then(|value| positive(name, value, 1));
        let amount = |name, value: i32| unsigned(name, value).and_then(|value| size(name, value));
        let custom = [
            (
                amount("customPaddingFront", p.custom_padding_front)?,
                amount("customPaddingBack", p.custom_padding_back)?,
            ),
            (
                amount("customPaddingTop", p.custom_padding_top)?,
                amount("customPaddingBottom", p.custom_padding_bottom)?,
            ),
            (
                amount("customPaddingLeft", p.custom_padding_left)?,
                amount("customPaddingRight", p.custom_padding_right)?,
            ),
        ];
        let padding = |axis: usize| match p.padding_type() {
            PaddingType::Custom => Padding::Fixed { before: custom[axis].0, after: custom[axis].1 },
            PaddingType::Valid => Padding::Fixed { before: 0, after: 0 },
            PaddingType::Same => Padding::Same { heavy_start: false },
        };
        let targets = match *p.output_shape {
            _ if !p.is_deconvolution => [None; 3],
            [] => [None; 3],
            [.., deep, high, wide] => {
                [Some(size("outputShape", deep)?), Some(size("outputShape", high)?), Some(size("outputShape", wide)?)]
            }
            _ => {
                return Err(LayerError::Parameter {
                    name: "outputShape",
                    found: format!("{} numbers", p.output_shape.len()),
                    expected: "three, for depth, height and width".to_owned(),
                }
                .into());
            }
        };
        let axes = vec![
            Spec {
                kernel: number("kernelDepth", p.kernel_depth)?,
                stride: number("strideDepth", p.stride_depth)?,
                dilation: number("dilationDepth", p.dilation_depth)?,
                padding: padding(0),
                target: targets[0],
            },
            Spec {
                kernel: number("kernelHeight", p.kernel_height)?,
                stride: number("strideHeight", p.stride_height)?,
                dilation: number("dilationHeight", p.dilation_height)?,
                padding: padding(1),
                target: targets[1],
            },
            Spec {
                kernel: number("kernelWidth", p.kernel_width)?,
                stride: number("strideWidth", p.stride_width)?,
                dilation: number("dilationWidth", p.dilation_width)?,
                padding: padding(2),
                target: targets[2],
            },
        ];
        Self {
            outputs: amount("outputChannels", p.output_channels)?,
            groups: number("nGroups", p.n_groups)?,
            inputs: amount("inputChannels", p.input_channels)?,
            transposed: p.is_deconvolution,
            axes,
            weights: Some(weights.require("weights")?),
            bias: weights.get("bias")?,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, PrepareError> {
        let Self { outputs, inputs, groups, .. } = self;
        if outputs == 0 || inputs == 0 || outputs % groups != 0 || inputs % groups != 0 {
            return Err(LayerError::Parameter {
                name: "nGroups",
                found: groups.to_string(),
                expected: format!("a divisor of {inputs} input channels and {outputs} output channels"),
            }
            .into());
        }
        let per_group = if self.transposed { [inputs, outputs / groups] } else { [outputs, inputs / groups] };
        let dims = per_group.into_iter().chain(self.axes.iter().map(|axis| axis.kernel));
        let len = dims.fold(1, usize::saturating_mul);
        match &self.weights {
            Some(weights) if weights.len() != len => Err(LayerError::Parameter {
                name: "weights",
                found: format!("{} values", weights.len()),
                expected: format!("{len} values"),
            }
            .into()),
            _ => Ok(self),
        }
    }

    fn geometry(&self, input: &Tensor, sizes: &[usize]) -> Result<Geometry, LayerError> {
        let mut axes = [Axis::whole(1); 3];
        let first = axes.len() - self.axes.len();
        for (index, spec) in self.axes.iter().enumerate() {
            let axis = if self.transposed { spec.transposed(sizes[index]) } else { spec.forward(sizes[index]) };
            axes[first + index] = axis.ok_or_else(|| {
                wrong_shape(0, input, format!("no axis that, padded, is shorter than the kernel {}", spec.reach()))
            })?;
        }
        Ok(Geometry { inputs: self.inputs, outputs: self.outputs, groups: self.groups, axes })
    }
}

impl Spec {
    /// The effective kernel.
    fn reach(&self) -> usize {
        (self.kernel - 1).saturating_mul(self.dilation).saturating_add(1)
    }

    fn axis(&self, input: usize, output: usize, before: usize) -> Axis {
        let Self { kernel, stride, dilation, .. } = *self;
        Axis { input, output, kernel, stride, dilation, before }
    }

    fn forward(&self, input: usize) -> Option<Axis> {
        Some(match self.padding {
            Padding::Fixed { before, after } => {
                let room = (input + before + after).checked_sub(self.reach())?;
                self.axis(input, room / self.stride + 1, before)
            }
            Padding::Same { heavy_start } => {
                let (output, before) = same(input, self.reach(), self.stride, heavy_start);
                self.axis(input, output, before)
            }
        })
    }

    /// Input and output of the axis change places, as the engine wants it.
    fn transposed(&self, len: usize) -> Option<Axis> {
        let full = len.checked_sub(1)?.checked_mul(self.stride)?.checked_add(self.reach())?;
        let (output, before) = match (self.padding, self.target) {
            (Padding::Fixed { before, after }, target) => {
                let cropped = full.checked_sub(before + after)?;
                match target {
                    Some(target) if target != cropped => (target, full.saturating_sub(target) / 2),
                    _ => (cropped, before),
                }
            }
            (Padding::Same { heavy_start }, target) => {
                let output = target.unwrap_or(len * self.stride);
                let crop = full.saturating_sub(output);
                (output, if heavy_start { crop.div_ceil(2) } else { crop / 2 })
            }
        };
        (output > 0).then(|| self.axis(output, len, before))
    }
}

/// The outputs, and the padding at the start, of an axis with `same` padding.
pub(super) fn same(input: usize, reach: usize, stride: usize, heavy_start: bool) -> (usize, usize) {
    let output = input.div_ceil(stride);
    let total = (output.saturating_sub(1) * stride).saturating_add(reach).saturating_sub(input);
    (output, if heavy_start { total.div_ceil(2) } else { total / 2 })
}

impl Prepared for Convolution {
    fn windows(&self, input: &Tensor) -> Option<(Geometry, bool)> {
        let (_, inner) = split_axes(input, self.axes.len() + 1, NAMES[self.axes.len() - 2]).ok()?;
        Some((self.geometry(input, &inner[1..]).ok()?, self.transposed))
    }

    fn note(&self) -> Option<&'static str> {
        let uncertain = |axis: &Spec| axis.target.is_some() || matches!(axis.padding, Padding::Same { .. });
        (self.transposed && self.axes.iter().any(uncertain)).then_some(uncertain::DECONVOLUTION)
    }

    fn eval(&self, inputs: &[Tensor], limits: Limits) -> Result<Vec<Tensor>, LayerError> {
        let (input, weights) = match (inputs, &self.weights) {
            ([input], Some(weights)) => (input, weights.into()),
            ([input, weights], None) => {
                let (first, second) = if self.transposed {
                    (self.inputs, self.outputs / self.groups)
                } else {
                    (self.outputs, self.inputs / self.groups)
                };
                let expected: Vec<usize> =
                    [first, second].into_iter().chain(self.axes.iter().map(|axis| axis.kernel)).collect();
                let len = expected.iter().fold(1, |len: usize, &size| len.saturating_mul(size));
                if weights.len() != len {
                    return Err(wrong_shape(1, weights, format!("weights of the shape {expected:?}")));
                }
                (input, row_major(weights))
            }
            _ => return Err(LayerError::InputCount { found: inputs.len(), expected: "one, or two with the weights" }),
        };
        let (batch, inner) = split_axes(input, self.axes.len() + 1, NAMES[self.axes.len() - 2])?;
        if inner[0] != self.inputs {
            return Err(wrong_shape(0, input, format!("{} channels", self.inputs)));
        }
        let geometry = self.geometry(input, &inner[1..])?;
        let sizes = geometry.axes[3 - self.axes.len()..].iter();
        let sizes: Vec<usize> = sizes.map(|axis| if self.transposed { axis.input } else { axis.output }).collect();
        let shape: Vec<usize> = batch.iter().copied().chain([self.outputs]).chain(sizes).collect();
        let mut out = vec![0.0; result_len(&shape, limits.max_values)?];
        let values = row_major(input);
        let sample: usize = inner.iter().product();
        let samples: usize = batch.iter().product();
        if out.is_empty() {
            return Ok(vec![tensor(&shape, out)?]);
        }
        let out_len = out.len() / samples;
        let bias = self.bias.as_deref();
        let work: Vec<_> = out.chunks_mut(out_len).enumerate().collect();
        engine::for_each(work, usize::MAX, |(index, out)| {
            let input = &values[index * sample..][..sample];
            if self.transposed {
                engine::deconvolution(out, input, &weights, bias, &geometry);
            } else {
                engine::convolution(out, input, &weights, bias, &geometry);
            }
        });
        Ok(vec![tensor(&shape, out)?])
    }
}

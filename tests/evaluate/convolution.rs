//! Convolutions, as sums over the kernel for every output value.

use coreml_quant::proto::convolution_layer_params::ConvolutionPaddingType;
use coreml_quant::proto::convolution3_d_layer_params::PaddingType;
use coreml_quant::proto::same_padding::SamePaddingMode;
use coreml_quant::proto::{Convolution3DLayerParams, ConvolutionLayerParams};

use super::{Tensor, bias, values};

/// One spatial axis.
#[derive(Clone, Copy)]
struct Axis {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    /// Zeros before the first value; of a deconvolution, results left out.
    padding: usize,
}

/// A convolution along any number of spatial axes.
struct Geometry<'a> {
    axes: &'a [Axis],
    inputs: usize,
    outputs: usize,
    groups: usize,
    is_deconvolution: bool,
}

fn setting(values: &[u64], axis: usize, default: u64) -> usize {
    values.get(axis).copied().unwrap_or(default) as usize
}

pub(super) fn planar(params: &ConvolutionLayerParams, input: &Tensor, weights: &[f64]) -> Tensor {
    let rank = input.shape.len();
    let axes = [0, 1].map(|axis| {
        let size = input.shape[rank - 2 + axis];
        let (kernel, stride) = (setting(&params.kernel_size, axis, 3), setting(&params.stride, axis, 1));
        let dilation = if params.is_deconvolution { 1 } else { setting(&params.dilation_factor, axis, 1) };
        let reach = (kernel - 1) * dilation + 1;
        let (output, padding) = match &params.convolution_padding_type {
            Some(ConvolutionPaddingType::Same(same)) => {
                let (output, total) = if params.is_deconvolution {
                    (size * stride, reach.saturating_sub(stride))
                } else {
                    let output = size.div_ceil(stride);
                    (output, ((output - 1) * stride + reach).saturating_sub(size))
                };
                let at_top = same.asymmetry_mode == SamePaddingMode::TopLeftHeavy as i32;
                (output, if at_top { total - total / 2 } else { total / 2 })
            }
            Some(ConvolutionPaddingType::Valid(valid)) => {
                let amounts = valid.padding_amounts.as_ref().and_then(|amounts| amounts.border_amounts.get(axis));
                let (start, end) =
                    amounts.map_or((0, 0), |edge| (edge.start_edge_size as usize, edge.end_edge_size as usize));
                let output = if params.is_deconvolution {
                    (size - 1) * stride + reach - start - end
                } else {
                    (size + start + end - reach) / stride + 1
                };
                (output, start)
            }
            None => panic!("a convolution has a padding"),
        };
        Axis { input: size, output, kernel, stride, dilation, padding }
    });
    let geometry = Geometry {
        axes: &axes,
        inputs: input.shape[rank - 3],
        outputs: params.output_channels as usize,
        groups: params.n_groups.max(1) as usize,
        is_deconvolution: params.is_deconvolution,
    };
    geometry.run(input, weights, &bias(params.has_bias, params.bias.as_ref(), geometry.outputs))
}

pub(super) fn solid(params: &Convolution3DLayerParams, input: &Tensor) -> Tensor {
    let kernel = [params.kernel_depth, params.kernel_height, params.kernel_width];
    let stride = [params.stride_depth, params.stride_height, params.stride_width];
    let dilation = [params.dilation_depth, params.dilation_height, params.dilation_width];
    assert_eq!(params.padding_type, PaddingType::Valid as i32, "the tests use no other");
    let axes = [0, 1, 2].map(|axis| {
        let (size, kernel) = (input.shape[2 + axis], kernel[axis] as usize);
        let (stride, dilation) = (stride[axis].max(1) as usize, dilation[axis].max(1) as usize);
        let reach = (kernel - 1) * dilation + 1;
        let output = if params.is_deconvolution { (size - 1) * stride + reach } else { (size - reach) / stride + 1 };
        Axis { input: size, output, kernel, stride, dilation, padding: 0 }
    });
    let geometry = Geometry {
        axes: &axes,
        inputs: input.shape[1],
        outputs: params.output_channels as usize,
        groups: params.n_groups.max(1) as usize,
        is_deconvolution: params.is_deconvolution,
    };
    let bias = bias(params.has_bias, params.bias.as_ref(), geometry.outputs);
    geometry.run(input, &values(params.weights.as_ref()), &bias)
}

impl Geometry<'_> {
    fn run(&self, input: &Tensor, weights: &[f64], bias: &[f64]) -> Tensor {
        let spatial = |side: fn(&Axis) -> usize| self.axes.iter().map(side).collect::<Vec<_>>();
        let (sizes, results, kernel) = (spatial(|a| a.input), spatial(|a| a.output), spatial(|a| a.kernel));
        let volume = |sizes: &[usize]| sizes.iter().product::<usize>();
        let (in_size, out_size, taps) = (volume(&sizes), volume(&results), volume(&kernel));
        let (in_group, out_group) = (self.inputs / self.groups, self.outputs / self.groups);
        let pairs = self.links(&sizes, &results, &kernel);

        let mut shape = input.shape.clone();
        let channel_axis = shape.len() - self.axes.len() - 1;
        shape[channel_axis] = self.outputs;
        shape[channel_axis + 1..].copy_from_slice(&results);
        let mut values = Vec::with_capacity(shape.iter().product());
        for image in input.values.chunks_exact(self.inputs * in_size) {
            for (o, bias) in bias.iter().enumerate() {
                let mut plane = vec![*bias; out_size];
                let group = o / out_group;
                for i in 0..in_group {
                    let channel = group * in_group + i;
                    // Convolution: [out, in / groups, kernel]. Deconvolution: [in, out / groups, kernel].
                    let block =
                        if self.is_deconvolution { channel * out_group + o % out_group } else { o * in_group + i };
                    let (image, weights) = (&image[channel * in_size..], &weights[block * taps..]);
                    for &(source, tap, result) in &pairs {
                        plane[result] += image[source] * weights[tap];
                    }
                }
                values.extend(plane);
            }
        }
        Tensor::new(&shape, values)
    }

    /// Which input, kernel and output positions belong together.
    fn links(&self, sizes: &[usize], results: &[usize], kernel: &[usize]) -> Vec<(usize, usize, usize)> {
        let mut links = vec![(0, 0, 0)];
        for (index, axis) in self.axes.iter().enumerate() {
            let mut along = Vec::new();
            // A deconvolution spreads each input where a convolution would have gathered from.
            let (near, far) = if self.is_deconvolution { (axis.input, axis.output) } else { (axis.output, axis.input) };
            for position in 0..near {
                for tap in 0..axis.kernel {
                    let reached = (position * axis.stride + tap * axis.dilation).checked_sub(axis.padding);
                    if let Some(reached) = reached.filter(|&reached| reached < far) {
                        let (source, result) =
                            if self.is_deconvolution { (position, reached) } else { (reached, position) };
                        along.push((source, tap, result));
                    }
                }
            }
            links = links
                .iter()
                .flat_map(|&(source, tap, result)| {
                    along.iter().map(move |&(s, t, r)| {
                        (source * sizes[index] + s, tap * kernel[index] + t, result * results[index] + r)
                    })
                })
                .collect();
        }
        links
    }
}

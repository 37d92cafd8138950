//! pooling, pooling3d and globalPooling3d.
//!
//! Windows lie as those of a convolution. Averages divide by the window's size, or, without padding, by the number of
//! values inside. `includeLastPixel` lets the last window overhang: `ceil((n + 2p - k) / s) + 1` outputs, one less if it
//! would start beyond the padded input; what overhangs has no value.

use crate::format::proto::global_pooling3_d_layer_params::GlobalPoolingType3D;
use crate::format::proto::pooling_layer_params::{PoolingPaddingType, PoolingType};
use crate::format::proto::pooling3_d_layer_params::{Pooling3DPaddingType, PoolingType3D};
use crate::format::proto::same_padding::SamePaddingMode;
use crate::format::proto::{GlobalPooling3DLayerParams, Pooling3DLayerParams, PoolingLayerParams};
use crate::predict::engine::{self, Axis, Pooling};
use crate::predict::tensor::{LayerError, Tensor};

use super::convolution::{Padding, border, per_axis, same};
use super::values::{positive, result_len, row_major, single, size, split_axes, tensor, unsigned, wrong_shape};
use super::{Limits, PrepareError, Prepared, uncertain};

/// A window along one axis.
#[derive(Clone, Copy, Debug)]
enum Window {
    /// The whole axis.
    All,
    Sliding {
        kernel: usize,
        stride: usize,
        padding: Padding,
    },
    /// Padding on both sides; the last window may overhang.
    Overhanging {
        kernel: usize,
        stride: usize,
        padding: usize,
    },
}

/// A pooling of either kind.
#[derive(Debug)]
pub(super) struct Pool {
    pooling: Pooling,
    /// Of the last two or three axes.
    windows: Vec<Window>,
}

impl Pool {
    pub(super) fn flat(p: &PoolingLayerParams) -> Result<Self, PrepareError> {
        let pooling = match p.r#type() {
            PoolingType::Max => Pooling::Max,
            PoolingType::Average if p.avg_pool_exclude_padding => Pooling::AverageOfInside,
            PoolingType::Average => Pooling::Average,
            PoolingType::L2 => Pooling::L2,
        };
        if p.global_pooling {
            return Ok(Self { pooling, windows: vec![Window::All; 2] });
        }
        let kernels = per_axis("kernelSize", &p.kernel_size, 3)?;
        let strides = per_axis("stride", &p.stride, 1)?;
        let mut windows = Vec::with_capacity(2);
        for axis in 0..2 {
            let (kernel, stride) = (kernels[axis], strides[axis]);
            let fixed = |before, after| Window::Sliding { kernel, stride, padding: Padding::Fixed { before, after } };
            windows.push(match &p.pooling_padding_type {
                None => fixed(0, 0),
                Some(PoolingPaddingType::Valid(valid)) => {
                    let (before, after) = border(valid.padding_amounts.as_ref(), axis)?;
                    fixed(before, after)
                }
                Some(PoolingPaddingType::Same(same)) => {
                    let heavy_start = same.asymmetry_mode() == SamePaddingMode::TopLeftHeavy;
                    Window::Sliding { kernel, stride, padding: Padding::Same { heavy_start } }
                }
                Some(PoolingPaddingType::IncludeLastPixel(complete)) => {
                    let padding = per_axis("paddingAmounts", &complete.padding_amounts, 0)?[axis];
                    Window::Overhanging { kernel, stride, padding }
                }
            });
        }
        Ok(Self { pooling, windows })
    }

    pub(super) fn deep(p: &Pooling3DLayerParams) -> Result<Self, PrepareError> {
        let number = |name, value: i32| unsigned(name, value).and_then(|value| positive(name, value, 1));
        let amount = |name, value: i32| unsigned(name, value).and_then(|value| size(name, value));
        let pooling = match p.r#type() {
            PoolingType3D::Max => Pooling::Max,
            PoolingType3D::Average if p.count_exclude_padding => Pooling::AverageOfInside,
            PoolingType3D::Average => Pooling::Average,
        };
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
        let window = |axis: usize, kernel, stride| {
            let padding = match p.padding_type() {
                Pooling3DPaddingType::Custom => Padding::Fixed { before: custom[axis].0, after: custom[axis].1 },
                Pooling3DPaddingType::Valid => Padding::Fixed { before: 0, after: 0 },
                Pooling3DPaddingType::Same => Padding::Same { heavy_start: false },
            };
            Window::Sliding { kernel, stride, padding }
        };
        let windows = vec![
            window(0, number("kernelDepth", p.kernel_depth)?, number("strideDepth", p.stride_depth)?),
            window(1, number("kernelHeight", p.kernel_height)?, number("strideHeight", p.stride_height)?),
            window(2, number("kernelWidth", p.kernel_width)?, number("strideWidth", p.stride_width)?),
        ];
        Ok(Self { pooling, windows })
    }

    pub(super) fn global(p: &GlobalPooling3DLayerParams) -> Self {
        let pooling = match p.r#type() {
            GlobalPoolingType3D::Max => Pooling::Max,
            GlobalPoolingType3D::Average => Pooling::Average,
        };
        Self { pooling, windows: vec![Window::All; 3] }
    }
}

impl Window {
    fn axis(self, input: usize) -> Option<Axis> {
        let axis = |output, kernel, stride, before| Axis { input, output, kernel, stride, dilation: 1, before };
        Some(match self {
            Self::All => axis(1, input, 1, 0),
            Self::Sliding { kernel, stride, padding: Padding::Fixed { before, after } } => {
                axis((input + before + after).checked_sub(kernel)? / stride + 1, kernel, stride, before)
            }
            Self::Sliding { kernel, stride, padding: Padding::Same { heavy_start } } => {
                let (output, before) = same(input, kernel, stride, heavy_start);
                axis(output, kernel, stride, before)
            }
            Self::Overhanging { kernel, stride, padding } => {
                let mut output = (input + 2 * padding).checked_sub(kernel)?.div_ceil(stride) + 1;
                if padding > 0 && (output - 1) * stride >= input + padding {
                    output -= 1;
                }
                axis(output, kernel, stride, padding)
            }
        })
    }
}

impl Prepared for Pool {
    fn note(&self) -> Option<&'static str> {
        let overhangs = self.windows.iter().any(|window| matches!(window, Window::Overhanging { .. }));
        (self.pooling == Pooling::Average && overhangs).then_some(uncertain::POOLING)
    }

    fn eval(&self, inputs: &[Tensor], limits: Limits) -> Result<Vec<Tensor>, LayerError> {
        let input = single(inputs)?;
        let (planes, inner) = split_axes(input, self.windows.len(), "of the window")?;
        let mut axes = [Axis::whole(1); 3];
        let first = axes.len() - self.windows.len();
        for (index, window) in self.windows.iter().enumerate() {
            axes[first + index] = window
                .axis(inner[index])
                .ok_or_else(|| wrong_shape(0, input, format!("no axis that, padded, is shorter than {window:?}")))?;
        }
        let shape: Vec<usize> = planes.iter().copied().chain(axes[first..].iter().map(|axis| axis.output)).collect();
        let mut out = vec![0.0; result_len(&shape, limits.max_values)?];
        engine::pool(&mut out, &row_major(input), self.pooling, axes);
        Ok(vec![tensor(&shape, out)?])
    }
}

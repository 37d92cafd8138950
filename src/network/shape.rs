//! The shapes of weights, from the sizes of their layers.

use crate::error::ShapeError;
use crate::format::proto::{Convolution3DLayerParams, ConvolutionLayerParams, WeightParams};
use crate::weight::Blocks;

/// The shape of a weight, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The dimensions.
    pub dims: Vec<usize>,
    /// Their product: the number of values.
    pub units: usize,
    /// The output channels of the layer, which Core ML lets have scales of their own; `None` where it takes a single one.
    pub channels: Option<Blocks>,
    /// The blocks for which linear modes write a scale each: the channels, or one for all where coremltools writes a
    /// single one too, as it does for constants.
    pub blocks: Blocks,
}

impl Shape {
    /// A shape without channels.
    pub(crate) fn new(dims: &[u64]) -> Result<Self, ShapeError> {
        let mut units = 1_usize;
        let mut sizes = Vec::with_capacity(dims.len());
        for &dim in dims {
            let overflow = || ShapeError::Overflow { shape: dims.to_vec() };
            let size = usize::try_from(dim).map_err(|_| overflow())?;
            units = units.checked_mul(size).ok_or_else(overflow)?;
            sizes.push(size);
        }
        // Four bytes a value must be addressable, and a scalar without dimensions is not a weight.
        if units > isize::MAX as usize / 8 {
            return Err(ShapeError::Overflow { shape: dims.to_vec() });
        }
        let units = if dims.is_empty() { 0 } else { units };
        Ok(Self { units, blocks: Blocks::per_tensor(&sizes), dims: sizes, channels: None })
    }

    fn with_channels(mut self, channels: Option<Blocks>) -> Self {
        if let Some(channels) = &channels {
            self.blocks = channels.clone();
        }
        self.channels = channels;
        self
    }

    /// The number of scales that a weight of this shape may have besides 1.
    pub(crate) fn channel_count(&self) -> usize {
        self.channels.as_ref().map_or(1, Blocks::count)
    }

    /// The blocks that share a scale where there is more than one.
    pub(crate) fn stored_blocks(&self) -> &Blocks {
        self.channels.as_ref().unwrap_or(&self.blocks)
    }
}

/// A matrix or tensor whose first axis are the channels.
pub(super) fn by_rows(dims: &[u64]) -> Result<Shape, ShapeError> {
    let shape = Shape::new(dims)?;
    let channels = Blocks::along(&shape.dims, 0);
    Ok(shape.with_channels(channels))
}

pub(super) fn vector(len: u64) -> Result<Shape, ShapeError> {
    Shape::new(&[len])
}

/// A constant of up to three dimensions (`scale`, `bias`, `loadConstant`): with three, Core ML takes scales along the
/// first.
pub(super) fn constant(dims: &[u64]) -> Result<Shape, ShapeError> {
    let mut shape = Shape::new(dims)?;
    if let [channels, _, _] = shape.dims[..]
        && channels > 1
    {
        shape.channels = Blocks::along(&shape.dims, 0);
    }
    Ok(shape)
}

/// A weight whose shape the layer does not tell: as many values as are stored, or as the bytes of packed codes hold.
pub(super) fn as_stored(params: Option<&WeightParams>) -> Result<Shape, ShapeError> {
    let units = params.map_or(0, |params| {
        let nbits = params.quantization.as_ref().map_or(0, |quantization| quantization.number_of_bits);
        let codes = (params.raw_value.len() as u64 * 8).checked_div(nbits).unwrap_or(0);
        let stored = params.float_value.len().max(params.float16_value.len() / 2).max(params.int8_raw_value.len());
        codes.max(stored as u64)
    });
    vector(units)
}

fn divide(what: &'static str, value: u64, groups: u64) -> Result<u64, ShapeError> {
    if value.is_multiple_of(groups) { Ok(value / groups) } else { Err(ShapeError::Groups { what, value, groups }) }
}

/// The output channels of a deconvolution: along the second axis, and others for each group of input channels. Where
/// the groups do not divide those, a scale per output channel has no meaning.
fn deconvolution(shape: Shape, groups: u64) -> Result<Shape, ShapeError> {
    let slabs = usize::try_from(groups).map_err(|_| ShapeError::Overflow { shape: vec![groups] })?;
    let channels = Blocks::in_slabs(&shape.dims, slabs);
    Ok(shape.with_channels(channels))
}

pub(super) fn convolution(params: &ConvolutionLayerParams) -> Result<Shape, ShapeError> {
    let (height, width) = match params.kernel_size[..] {
        [] => (3, 3),
        [height, width] => (height, width),
        _ => return Err(ShapeError::KernelSize { len: params.kernel_size.len() }),
    };
    let groups = params.n_groups.max(1);
    if !params.is_deconvolution {
        return by_rows(&[params.output_channels, params.kernel_channels, height, width]);
    }
    let outputs = divide("outputChannels", params.output_channels, groups)?;
    deconvolution(Shape::new(&[params.kernel_channels, outputs, height, width])?, groups)
}

/// A size that the format stores as a signed number.
pub(super) fn size(what: &'static str, value: impl Into<i64>) -> Result<u64, ShapeError> {
    let value = value.into();
    u64::try_from(value).map_err(|_| ShapeError::Negative { what, value })
}

pub(super) fn normalized(dims: &[i64]) -> Result<Shape, ShapeError> {
    let dims: Result<Vec<u64>, _> = dims.iter().map(|&dim| size("normalizedShape", dim)).collect();
    Shape::new(&dims?)
}

pub(super) fn convolution3d(params: &Convolution3DLayerParams) -> Result<Shape, ShapeError> {
    let groups = size("nGroups", params.n_groups)?.max(1);
    let outputs = size("outputChannels", params.output_channels)?;
    let inputs = size("inputChannels", params.input_channels)?;
    let kernel = [
        size("kernelDepth", params.kernel_depth)?,
        size("kernelHeight", params.kernel_height)?,
        size("kernelWidth", params.kernel_width)?,
    ];
    let [depth, height, width] = kernel;
    if params.is_deconvolution {
        let outputs = divide("outputChannels", outputs, groups)?;
        return deconvolution(Shape::new(&[inputs, outputs, depth, height, width])?, groups);
    }
    by_rows(&[outputs, divide("inputChannels", inputs, groups)?, depth, height, width])
}

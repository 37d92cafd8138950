//! Images of other sizes: `upsample`, `resizeBilinear`, `cropResize`.
//!
//! Interpolation is separable: each output row and column lies between two of the input, whose weights are computed
//! in float64 from the grid of the mode.

use super::checks::{Outputs, at_least, enumeration, length, one, parameter, rank, two, values};
use super::{Context, uncertain};
use crate::format::proto::box_coordinates_mode::Coordinates;
use crate::format::proto::sampling_mode::Method;
use crate::format::proto::upsample_layer_params::{InterpolationMode, LinearUpsampleMode};
use crate::format::proto::{CropResizeLayerParams, ResizeBilinearLayerParams, SamplingMode, UpsampleLayerParams};
use crate::predict::tensor::{LayerError, Tensor};

/// Where one output row or column lies in the input.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    low: usize,
    high: usize,
    /// The weight of `high`.
    weight: f32,
}

impl Sample {
    /// At a coordinate, which is clamped to the `n` positions; there is at least one.
    fn at(position: f64, n: usize) -> Self {
        let last = n.saturating_sub(1);
        // NaN becomes 0.
        let position = position.max(0.0).min(last as f64);
        let low = position.floor() as usize;
        Self { low, high: (low + 1).min(last), weight: (position - position.floor()) as f32 }
    }
}

/// Interpolates a plane between four neighbours each.
fn bilinear(plane: &[f32], width: usize, rows: &[Sample], columns: &[Sample], out: &mut Vec<f32>) {
    let mix = |a: f32, b: f32, weight: f32| if weight == 0.0 { a } else { a + (b - a) * weight };
    for row in rows {
        let (upper, lower) = (&plane[row.low * width..][..width], &plane[row.high * width..][..width]);
        out.extend(columns.iter().map(|column| {
            let top = mix(upper[column.low], upper[column.high], column.weight);
            if row.weight == 0.0 {
                return top;
            }
            mix(top, mix(lower[column.low], lower[column.high], column.weight), row.weight)
        }));
    }
}

/// Samples every plane of a blob.
fn resampled(x: &Tensor, rows: &[Sample], columns: &[Sample], cx: &Context) -> Outputs {
    let mut shape = x.shape().to_vec();
    let at = x.ndim() - 2;
    let (height, width) = (shape[at], shape[at + 1]);
    shape[at..].copy_from_slice(&[rows.len(), columns.len()]);
    let source = values(x);
    let y = cx.tensor(&shape, |size| {
        let mut y = Vec::with_capacity(size);
        for plane in source.chunks_exact((height * width).max(1)) {
            bilinear(plane, width, rows, columns, &mut y);
        }
        y
    })?;
    Ok(vec![y])
}

/// Height and width; an image has to have pixels.
fn image_size(x: &Tensor) -> Result<[usize; 2], LayerError> {
    at_least(x, 0, 2)?;
    let size = [x.shape()[x.ndim() - 2], x.shape()[x.ndim() - 1]];
    if size.contains(&0) {
        return Err(LayerError::InputShape {
            input: 0,
            found: x.shape().to_vec(),
            expected: "at least one pixel".into(),
        });
    }
    Ok(size)
}

/// Two numbers for height and width; none, or zeros, are ones.
fn pair(name: &'static str, list: &[u64]) -> Result<[usize; 2], LayerError> {
    match *list {
        [] => Ok([1, 1]),
        [h, w] => Ok([length(name, h.max(1))?, length(name, w.max(1))?]),
        _ => Err(parameter(name, list.len(), "two numbers, for height and width")),
    }
}

/// `upsample`: the nearest pixel, or bilinear in one of three grids.
pub(super) fn upsample(params: &UpsampleLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let x = one(inputs)?;
    let size = image_size(x)?;
    let factors = match *params.fractional_scaling_factor {
        [] => pair("scalingFactor", &params.scaling_factor)?.map(|factor| factor as f32),
        [h, w] => [h, w].map(|factor| if factor == 0.0 { 1.0 } else { factor }),
        _ => {
            let count = params.fractional_scaling_factor.len();
            return Err(parameter("fractionalScalingFactor", count, "two numbers, for height and width"));
        }
    };
    let mode = enumeration("mode", params.mode)?;
    let grid = enumeration("linearUpsampleMode", params.linear_upsample_mode)?;
    let mut target = [0; 2];
    for i in 0..2 {
        let wanted = (size[i] as f32 * factors[i]).floor();
        if !(wanted >= 1.0 && wanted.is_finite()) {
            return Err(parameter("scalingFactor", factors[i], format!("a factor that leaves pixels of {}", size[i])));
        }
        target[i] = wanted as usize;
    }
    let mut shape = x.shape().to_vec();
    shape[x.ndim() - 2..].copy_from_slice(&target);
    cx.size(&shape)?;
    if mode == InterpolationMode::Nn && factors.iter().any(|factor| factor.fract() != 0.0) {
        cx.note(uncertain::NEAREST);
    }
    let samples = |i: usize| -> Vec<Sample> {
        let (n, wide) = (size[i] as f64, target[i] as f64);
        let factor = f64::from(factors[i]);
        (0..target[i])
            .map(|at| {
                let at = at as f64;
                let position = match (mode, grid) {
                    (InterpolationMode::Nn, _) => (at / factor).floor(),
                    (_, LinearUpsampleMode::Default) if wide > 1.0 => at * (n - n / wide) / (wide - 1.0),
                    (_, LinearUpsampleMode::AlignCornersTrue) if wide > 1.0 => at * (n - 1.0) / (wide - 1.0),
                    (_, LinearUpsampleMode::AlignCornersFalse) => (at + 0.5) * n / wide - 0.5,
                    _ => 0.0,
                };
                Sample::at(position, size[i])
            })
            .collect()
    };
    resampled(x, &samples(0), &samples(1), cx)
}

fn method(mode: Option<&SamplingMode>) -> Result<Method, LayerError> {
    enumeration("samplingMethod", mode.map_or(0, |mode| mode.sampling_method))
}

/// `count` positions on the interval from `start` to `end`, both of which are positions of pixels.
fn positions(method: Method, start: f64, end: f64, count: usize, at: usize) -> f64 {
    let (at, wide, last) = (at as f64, count as f64, end - start);
    let spread = if count > 1 { at / (wide - 1.0) } else { 0.0 };
    start
        + match method {
            Method::AlignEndpointsMode if count == 1 => last / 2.0,
            Method::StrictAlignEndpointsMode | Method::AlignEndpointsMode => spread * last,
            Method::UpsampleMode => spread * (last + 1.0 - (last + 1.0) / wide),
            Method::RoiAlignMode => {
                let step = last.max(1.0) / wide;
                step / 2.0 + at * step
            }
        }
}

/// `resizeBilinear`
pub(super) fn resize_bilinear(params: &ResizeBilinearLayerParams, inputs: &[Tensor], cx: &Context) -> Outputs {
    let x = one(inputs)?;
    let size = image_size(x)?;
    let target = pair("targetSize", &params.target_size)?;
    let method = method(params.mode.as_ref())?;
    let mut shape = x.shape().to_vec();
    shape[x.ndim() - 2..].copy_from_slice(&target);
    cx.size(&shape)?;
    let samples = |i: usize| -> Vec<Sample> {
        let last = (size[i] - 1) as f64;
        (0..target[i]).map(|at| Sample::at(positions(method, 0.0, last, target[i], at), size[i])).collect()
    };
    resampled(x, &samples(0), &samples(1), cx)
}

/// `cropResize`: boxes of `[1, batch, channels, height, width]`, each resized. `[boxes, 1, 4, 1, 1]` are cut out of
/// every entry of the batch, `[boxes, 1, 5, 1, 1]` out of the one that their first value names.
pub(super) fn crop_resize(params: &CropResizeLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let (x, boxes) = two(inputs)?;
    rank(x, 0, 5)?;
    rank(boxes, 1, 5)?;
    let size = image_size(x)?;
    let (batch, channels) = (x.shape()[1], x.shape()[2]);
    let (count, numbers) = (boxes.shape()[0], boxes.shape()[2]);
    if x.shape()[0] != 1 {
        return Err(LayerError::InputShape { input: 0, found: x.shape().to_vec(), expected: "a sequence of 1".into() });
    }
    if !matches!(numbers, 4 | 5) || boxes.len() != count * numbers {
        return Err(LayerError::InputShape {
            input: 1,
            found: boxes.shape().to_vec(),
            expected: "[boxes, 1, 4 or 5, 1, 1]".into(),
        });
    }
    let target = pair("targetSize", &params.target_size)?;
    let method = method(params.mode.as_ref())?;
    let corners = enumeration("boxMode", params.box_indices_mode.map_or(0, |mode| mode.box_mode))?;
    let centred = matches!(corners, Coordinates::CenterSizeHeightFirst | Coordinates::CenterSizeWidthFirst);
    if centred || matches!(method, Method::UpsampleMode | Method::RoiAlignMode) {
        cx.note(uncertain::CROP_RESIZE);
    }
    let named = numbers == 5;
    let shape = [count, if named { 1 } else { batch }, channels, target[0], target[1]];
    cx.size(&shape)?;
    let source = values(x);
    let all = values(boxes);
    let scale = f64::from(if params.spatial_scale == 0.0 { 1.0 } else { params.spatial_scale });
    let plane = size[0] * size[1];
    let mut y = Vec::with_capacity(cx.size(&shape)?);
    for numbers in all.chunks_exact(numbers) {
        let (images, sides) = match *numbers {
            [image, a, b, c, d] => {
                let image = super::checks::index(image, batch)?;
                (image..image + 1, [a, b, c, d])
            }
            [a, b, c, d] => (0..batch, [a, b, c, d]),
            _ => continue,
        };
        let [a, b, c, d] = sides.map(|side| f64::from(side) * scale);
        let [rows, columns] = match corners {
            Coordinates::CornersHeightFirst => [(a, c), (b, d)],
            Coordinates::CornersWidthFirst => [(b, d), (a, c)],
            Coordinates::CenterSizeHeightFirst => [(a - c / 2.0, a + c / 2.0), (b - d / 2.0, b + d / 2.0)],
            Coordinates::CenterSizeWidthFirst => [(b - d / 2.0, b + d / 2.0), (a - c / 2.0, a + c / 2.0)],
        };
        let samples = |i: usize, (start, end): (f64, f64)| -> Vec<Sample> {
            let unit = if params.normalized_coordinates { (size[i] - 1) as f64 } else { 1.0 };
            (0..target[i])
                .map(|at| Sample::at(positions(method, start * unit, end * unit, target[i], at), size[i]))
                .collect()
        };
        let (rows, columns) = (samples(0, rows), samples(1, columns));
        for at in images.start * channels..images.end * channels {
            bilinear(&source[at * plane..][..plane], size[1], &rows, &columns, &mut y);
        }
    }
    Ok(vec![super::checks::tensor(&shape, y)?])
}

//! Convolutions whose groups have one input channel: a sum of shifted rows, with a loop of its own for 3 x 3.

use multiversion::multiversion;

use super::{Axis, Geometry, for_each};

/// Convolution of one sample with one input channel a group; everything as in [`convolution`](super::convolution).
pub(super) fn depthwise(out: &mut [f32], input: &[f32], weights: &[f32], bias: Option<&[f32]>, geometry: &Geometry) {
    let (in_len, out_len, taps) = (geometry.input_len(), geometry.output_len(), geometry.taps());
    let multiplier = geometry.group_outputs();
    let planes: Vec<_> = out.chunks_mut(out_len).enumerate().collect();
    for_each(planes, geometry.outputs.saturating_mul(taps).saturating_mul(out_len), |(channel, out)| {
        let input = &input[channel / multiplier * in_len..][..in_len];
        let weights = &weights[channel * taps..][..taps];
        let bias = bias.map_or(0.0, |bias| bias[channel]);
        match (<&[f32; 9]>::try_from(weights), Padded::new(input, geometry.axes)) {
            (Ok(weights), Some(padded)) => three_by_three(out, &padded, weights, bias),
            _ => shifted_rows(out, input, weights, bias, geometry.axes),
        }
    });
}

#[multiversion(targets = "simd")]
fn shifted_rows(out: &mut [f32], input: &[f32], weights: &[f32], bias: f32, [deep, high, wide]: [Axis; 3]) {
    out.fill(bias);
    for (line, out) in out.chunks_mut(wide.output).enumerate() {
        let (z, y) = (line / high.output, line % high.output);
        for z_tap in 0..deep.kernel {
            let Some(z) = deep.input_at(z, z_tap) else { continue };
            for y_tap in 0..high.kernel {
                let Some(y) = high.input_at(y, y_tap) else { continue };
                let line = &input[(z * high.input + y) * wide.input..][..wide.input];
                let weights = &weights[(z_tap * high.kernel + y_tap) * wide.kernel..][..wide.kernel];
                for (x_tap, &weight) in weights.iter().enumerate() {
                    let inside = wide.outputs_inside(x_tap);
                    if inside.is_empty() {
                        continue;
                    }
                    let from = inside.start * wide.stride + x_tap * wide.dilation - wide.before;
                    let out = &mut out[inside];
                    if wide.stride == 1 {
                        for (out, value) in out.iter_mut().zip(&line[from..]) {
                            *out += weight * value;
                        }
                    } else {
                        for (out, value) in out.iter_mut().zip(line[from..].iter().step_by(wide.stride)) {
                            *out += weight * value;
                        }
                    }
                }
            }
        }
    }
}

/// A plane with its padding. With stride 2 the even columns of a row come before the odd ones, so that all reads are
/// of neighbours.
struct Padded {
    values: Vec<f32>,
    row: usize,
    width: usize,
    stride: usize,
}

impl Padded {
    /// `None` if the windows are not 3 x 3 with stride 1 or 2, or if there is more padding than plane.
    fn new(input: &[f32], [deep, high, wide]: [Axis; 3]) -> Option<Self> {
        let stride = wide.stride;
        let fits = |axis: Axis| axis.kernel == 3 && axis.dilation == 1 && axis.stride == stride;
        if !(deep.is_pointwise() && deep.output == 1 && matches!(stride, 1 | 2) && fits(high) && fits(wide)) {
            return None;
        }
        let size = |axis: Axis| (axis.output - 1) * stride + 3;
        let (rows, row) = (size(high), size(wide).next_multiple_of(2));
        if rows.checked_mul(row)? > 4 * input.len() + 1024 {
            return None;
        }
        let mut values = vec![0.0; rows * row];
        for (y, out) in values.chunks_mut(row).enumerate() {
            let Some(y) = y.checked_sub(high.before).filter(|&y| y < high.input) else { continue };
            let line = &input[y * wide.input..][..wide.input];
            if stride == 1 {
                let end = (wide.before + line.len()).min(row).max(wide.before.min(row));
                let out = &mut out[wide.before.min(row)..end];
                out.copy_from_slice(&line[..out.len()]);
            } else {
                let (even, odd) = out.split_at_mut(row / 2);
                for (x, &value) in line.iter().enumerate() {
                    let x = x + wide.before;
                    let half = if x.is_multiple_of(2) { &mut *even } else { &mut *odd };
                    if let Some(out) = half.get_mut(x / 2) {
                        *out = value;
                    }
                }
            }
        }
        Some(Self { values, row, width: wide.output, stride })
    }
}

#[multiversion(targets = "simd")]
fn three_by_three(out: &mut [f32], input: &Padded, weights: &[f32; 9], bias: f32) {
    let (row, width) = (input.row, input.width);
    // Where the three columns of a window start in a row.
    let starts = if input.stride == 1 { [0, 1, 2] } else { [0, row / 2, 1] };
    for (y, out) in out.chunks_mut(width).enumerate() {
        let lines = &input.values[y * input.stride * row..][..3 * row];
        let read = |y: usize, x: usize| &lines[y * row + starts[x]..][..width];
        let (a, b, c) = (read(0, 0), read(0, 1), read(0, 2));
        let (d, e, f) = (read(1, 0), read(1, 1), read(1, 2));
        let (g, h, i) = (read(2, 0), read(2, 1), read(2, 2));
        let out = &mut out[..width];
        for x in 0..width {
            let first = a[x] * weights[0] + b[x] * weights[1] + c[x] * weights[2];
            let second = d[x] * weights[3] + e[x] * weights[4] + f[x] * weights[5];
            let third = g[x] * weights[6] + h[x] * weights[7] + i[x] * weights[8];
            out[x] = first + second + (third + bias);
        }
    }
}

//! Transposed convolution: each input position adds the kernel, times its value, to the output.

use super::gemm::product;
use super::{Axis, BUFFER, Geometry, Matrix, for_each};

/// Rows of the matrix that one piece of work computes: taps of some output channels.
const ROWS: usize = 64;

/// The transposed convolution of one sample `[inputs, depth, height, width]` with `weights`
/// `[inputs, outputs / groups, kernel..]`, plus `bias`, a value an output channel.
///
/// An axis reads `output` as the length of the input here and `input` as that of the output: input `x` at tap `t` adds
/// to output `x * stride + t * dilation - before`, where that exists.
pub(crate) fn deconvolution(
    out: &mut [f32],
    input: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    geometry: &Geometry,
) {
    let (inputs, outputs) = (geometry.group_inputs(), geometry.group_outputs());
    // Named for what they hold, not for the axes' fields.
    let (in_len, out_len, taps) = (geometry.output_len(), geometry.input_len(), geometry.taps());
    if out.is_empty() {
        return;
    }
    let block = (ROWS / taps.max(1)).clamp(1, outputs);
    let mut work = Vec::new();
    for (group, out) in out.chunks_mut(outputs * out_len).enumerate() {
        for (index, out) in out.chunks_mut(block * out_len).enumerate() {
            work.push((group, index * block, out));
        }
    }
    let multiplications = geometry.outputs.saturating_mul(taps).saturating_mul(inputs).saturating_mul(in_len);
    for_each(work, multiplications, |(group, first, out)| {
        let count = out.len() / out_len;
        for (channel, out) in out.chunks_mut(out_len).enumerate() {
            out.fill(bias.map_or(0.0, |bias| bias[group * outputs + first + channel]));
        }
        if in_len == 0 || taps == 0 || inputs == 0 {
            return;
        }
        let input = &input[group * inputs * in_len..][..inputs * in_len];
        let row = outputs * taps;
        let weights = &weights[group * inputs * row..][..inputs * row];
        let weights = Matrix::strided(&weights[first * taps..], inputs, count * taps, row).transposed();
        let tile = (BUFFER / (count * taps)).clamp(1, in_len);
        let mut contributions = vec![0.0; count * taps * tile];
        for start in (0..in_len).step_by(tile) {
            let width = tile.min(in_len - start);
            let contributions = &mut contributions[..count * taps * width];
            product(contributions, weights, Matrix::strided(&input[start..], inputs, width, in_len), false);
            let parts = contributions.chunks(taps * width);
            for (out, contributions) in out.chunks_mut(out_len).zip(parts) {
                scatter(out, contributions, geometry.axes, start, width);
            }
        }
    });
}

/// Adds the contributions of `width` input positions from `start` on, a row a tap, to one output channel.
fn scatter(out: &mut [f32], contributions: &[f32], [deep, high, wide]: [Axis; 3], start: usize, width: usize) {
    let mut rows = contributions.chunks(width);
    for z_tap in 0..deep.kernel {
        for y_tap in 0..high.kernel {
            for x_tap in 0..wide.kernel {
                let Some(row) = rows.next() else { return };
                let inside = wide.outputs_inside(x_tap);
                let mut at = 0;
                while at < width {
                    let position = start + at;
                    let (line, x) = (position / wide.output, position % wide.output);
                    let len = (wide.output - x).min(width - at);
                    let values = &row[at..][..len];
                    at += len;
                    let (z, y) = (line / high.output, line % high.output);
                    let (Some(z), Some(y)) = (deep.input_at(z, z_tap), high.input_at(y, y_tap)) else { continue };
                    let first = inside.start.clamp(x, x + len);
                    let last = inside.end.clamp(first, x + len);
                    if first == last {
                        continue;
                    }
                    let line = &mut out[(z * high.input + y) * wide.input..][..wide.input];
                    let to = first * wide.stride + x_tap * wide.dilation - wide.before;
                    let values = &values[first - x..last - x];
                    for (out, value) in line[to..].iter_mut().step_by(wide.stride).zip(values) {
                        *out += value;
                    }
                }
            }
        }
    }
}

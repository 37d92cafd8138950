//! Convolution as a matrix product: weights times the windows of the input, a tile of output positions at a time.

use super::gemm::product;
use super::{Axis, BUFFER, Geometry, Matrix, depthwise, for_each, gemm};

/// Output positions of a tile are a multiple of this, where there are so many.
const TILE_UNIT: usize = 32;

/// The cross-correlation of one sample `[inputs, depth, height, width]` with `weights`
/// `[outputs, inputs / groups, kernel..]`, plus `bias`, a value an output channel.
pub(crate) fn convolution(out: &mut [f32], input: &[f32], weights: &[f32], bias: Option<&[f32]>, geometry: &Geometry) {
    if out.is_empty() {
        return;
    }
    if geometry.group_inputs() == 1 {
        return depthwise::depthwise(out, input, weights, bias, geometry);
    }
    let (inputs, outputs) = (geometry.group_inputs(), geometry.group_outputs());
    let (in_len, out_len) = (geometry.input_len(), geometry.output_len());
    let depth = inputs * geometry.taps();
    let groups: Vec<_> = out.chunks_mut(outputs * out_len).enumerate().collect();
    for_each(groups, geometry.outputs.saturating_mul(depth).saturating_mul(out_len), |(group, out)| {
        let input = &input[group * inputs * in_len..][..inputs * in_len];
        let weights = Matrix::new(&weights[group * outputs * depth..][..outputs * depth], outputs, depth);
        let bias = bias.map(|bias| &bias[group * outputs..][..outputs]);
        one_group(out, input, weights, bias, geometry);
    });
}

fn one_group(out: &mut [f32], input: &[f32], weights: Matrix<'_>, bias: Option<&[f32]>, geometry: &Geometry) {
    let (outputs, depth) = (weights.rows(), weights.columns());
    let len = geometry.output_len();
    let pointwise = geometry.axes.iter().all(Axis::is_pointwise);
    let tile = (BUFFER / depth.max(1) / TILE_UNIT * TILE_UNIT).max(TILE_UNIT.min(BUFFER / depth.max(1)).max(1));
    if len <= tile {
        if pointwise {
            gemm(out, weights, Matrix::new(input, depth, len), false);
        } else {
            let mut columns = vec![0.0; depth * len];
            windows(&mut columns, input, geometry, 0);
            gemm(out, weights, Matrix::new(&columns, depth, len), false);
        }
        add_bias(out, bias, len);
        return;
    }
    // The same stretch of every output channel makes a tile.
    let mut tiles: Vec<Vec<&mut [f32]>> = (0..len.div_ceil(tile)).map(|_| Vec::with_capacity(outputs)).collect();
    for channel in out.chunks_mut(len) {
        for (rows, row) in tiles.iter_mut().zip(channel.chunks_mut(tile)) {
            rows.push(row);
        }
    }
    let tiles: Vec<_> = tiles.into_iter().enumerate().collect();
    for_each(tiles, outputs.saturating_mul(depth).saturating_mul(len), |(index, mut rows)| {
        let start = index * tile;
        let width = rows.first().map_or(0, |row| row.len());
        let mut result = vec![0.0; outputs * width];
        if pointwise {
            product(&mut result, weights, Matrix::strided(&input[start..], depth, width, len), false);
        } else {
            let mut columns = vec![0.0; depth * width];
            windows(&mut columns, input, geometry, start);
            product(&mut result, weights, Matrix::new(&columns, depth, width), false);
        }
        for (channel, (row, result)) in rows.iter_mut().zip(result.chunks(width)).enumerate() {
            match bias {
                Some(bias) => row.iter_mut().zip(result).for_each(|(out, value)| *out = value + bias[channel]),
                None => row.copy_from_slice(result),
            }
        }
    });
}

pub(super) fn add_bias(out: &mut [f32], bias: Option<&[f32]>, len: usize) {
    if let Some(bias) = bias {
        for (channel, &bias) in out.chunks_mut(len).zip(bias) {
            channel.iter_mut().for_each(|value| *value += bias);
        }
    }
}

/// Output positions that follow each other in a line of the output.
struct Run {
    z: usize,
    y: usize,
    x: usize,
    len: usize,
    /// Where they are in a row of the matrix.
    at: usize,
}

/// What each output position from `start` on reads: a row a channel and tap, a column a position. Padding is zero.
fn windows(columns: &mut [f32], input: &[f32], geometry: &Geometry, start: usize) {
    let [deep, high, wide] = geometry.axes;
    let rows = geometry.group_inputs() * geometry.taps();
    let width = columns.len() / rows.max(1);
    let mut runs = Vec::new();
    let mut at = 0;
    while at < width {
        let position = start + at;
        let (line, x) = (position / wide.output, position % wide.output);
        let len = (wide.output - x).min(width - at);
        runs.push(Run { z: line / high.output, y: line % high.output, x, len, at });
        at += len;
    }
    let mut columns = columns.chunks_mut(width);
    for channel in input.chunks(geometry.input_len()) {
        for z_tap in 0..deep.kernel {
            for y_tap in 0..high.kernel {
                for x_tap in 0..wide.kernel {
                    let Some(row) = columns.next() else { return };
                    let inside = wide.outputs_inside(x_tap);
                    for run in &runs {
                        let row = &mut row[run.at..][..run.len];
                        let (Some(z), Some(y)) = (deep.input_at(run.z, z_tap), high.input_at(run.y, y_tap)) else {
                            row.fill(0.0);
                            continue;
                        };
                        let line = &channel[(z * high.input + y) * wide.input..][..wide.input];
                        let first = inside.start.clamp(run.x, run.x + run.len);
                        let last = inside.end.clamp(first, run.x + run.len);
                        let (before, rest) = row.split_at_mut(first - run.x);
                        let (within, after) = rest.split_at_mut(last - first);
                        before.fill(0.0);
                        after.fill(0.0);
                        if within.is_empty() {
                            continue;
                        }
                        let from = first * wide.stride + x_tap * wide.dilation - wide.before;
                        if wide.stride == 1 {
                            within.copy_from_slice(&line[from..][..within.len()]);
                        } else {
                            for (to, from) in within.iter_mut().zip(line[from..].iter().step_by(wide.stride)) {
                                *to = *from;
                            }
                        }
                    }
                }
            }
        }
    }
}

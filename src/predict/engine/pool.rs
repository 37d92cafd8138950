//! Pooling over windows.

use multiversion::multiversion;

use super::{Axis, for_each};

/// What is made of the values of a window. Padding has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The largest; minus infinity without values.
    Max,
    /// Their sum, divided by the window's size.
    Average,
    /// Their sum, divided by their number; 0 without values.
    AverageOfInside,
    /// The root of the sum of their squares.
    L2,
}

/// Pools every plane `[depth, height, width]` of `input`. There is no dilation.
pub(crate) fn pool(out: &mut [f32], input: &[f32], pooling: Pooling, axes: [Axis; 3]) {
    let in_len: usize = axes.iter().map(|axis| axis.input).product();
    let out_len: usize = axes.iter().map(|axis| axis.output).product();
    if out.is_empty() {
        return;
    }
    if in_len == 0 {
        out.fill(if pooling == Pooling::Max { f32::NEG_INFINITY } else { 0.0 });
        return;
    }
    let taps = axes.iter().map(|axis| axis.kernel.min(axis.input)).fold(1, usize::saturating_mul);
    let work = out.len().saturating_mul(taps);
    let planes: Vec<_> = out.chunks_mut(out_len).zip(input.chunks(in_len)).collect();
    for_each(planes, work, |(out, input)| plane(out, input, pooling, axes));
}

#[multiversion(targets = "simd")]
fn plane(out: &mut [f32], input: &[f32], pooling: Pooling, [deep, high, wide]: [Axis; 3]) {
    let size = deep.kernel as f32 * high.kernel as f32 * wide.kernel as f32;
    out.fill(if pooling == Pooling::Max { f32::NEG_INFINITY } else { 0.0 });
    for (line, out) in out.chunks_mut(wide.output).enumerate() {
        let (zs, ys) = (deep.window(line / high.output), high.window(line % high.output));
        let lines = zs.len() * ys.len();
        for z in zs {
            for y in ys.clone() {
                let row = &input[(z * high.input + y) * wide.input..][..wide.input];
                match pooling {
                    Pooling::Max => {
                        add_row(out, row, wide, |out, value| if value > out || value.is_nan() { value } else { out })
                    }
                    Pooling::L2 => add_row(out, row, wide, |out, value| out + value * value),
                    Pooling::Average | Pooling::AverageOfInside => add_row(out, row, wide, |out, value| out + value),
                }
            }
        }
        match pooling {
            Pooling::Max => {}
            Pooling::L2 => out.iter_mut().for_each(|value| *value = value.sqrt()),
            Pooling::Average => out.iter_mut().for_each(|value| *value /= size),
            Pooling::AverageOfInside => {
                for (x, value) in out.iter_mut().enumerate() {
                    *value /= (lines * wide.window(x).len()).max(1) as f32;
                }
            }
        }
    }
}

/// Joins the values of a row with the outputs whose windows they are in.
#[inline(always)]
fn add_row(out: &mut [f32], row: &[f32], wide: Axis, join: impl Fn(f32, f32) -> f32) {
    if wide.stride >= wide.kernel || wide.output == 1 {
        for (x, out) in out.iter_mut().enumerate() {
            *out = row[wide.window(x)].iter().fold(*out, |out, &value| join(out, value));
        }
        return;
    }
    for tap in 0..wide.kernel {
        let inside = wide.outputs_inside(tap);
        if inside.is_empty() {
            continue;
        }
        let from = inside.start * wide.stride + tap - wide.before;
        let out = &mut out[inside];
        if wide.stride == 1 {
            out.iter_mut().zip(&row[from..]).for_each(|(out, &value)| *out = join(*out, value));
        } else {
            let values = row[from..].iter().step_by(wide.stride);
            out.iter_mut().zip(values).for_each(|(out, &value)| *out = join(*out, value));
        }
    }
}

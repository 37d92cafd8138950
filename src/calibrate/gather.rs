//! How a weight meets its inputs: which values of a blob are multiplied with a row of it, position by position.
//!
//! A position is an output pixel of a convolution, a vector of a product, a step of a sequence. What lies outside a
//! convolution's input is zero. A transposed convolution is the same with zeros between the inputs.

use super::moments::Inputs;
use crate::predict::engine::Geometry;

/// How a layer reads an input.
#[derive(Clone, Debug)]
pub(crate) enum Reading {
    /// Vectors of so many values, one after the other.
    Vectors(usize),
    /// Numbers of tokens, each of which stands for a vector with a one in its place.
    Tokens(usize),
    /// Windows: a vector for each output position holds, for each group, channel and tap, the input.
    Windows {
        /// Sizes; of a transposed convolution those of the convolution whose transpose it is: its `axes` have the
        /// layer's output as input.
        geometry: Geometry,
        /// Whether it is transposed.
        transposed: bool,
    },
}

impl Reading {
    /// Number of groups.
    pub(crate) fn groups(&self) -> usize {
        match self {
            Self::Vectors(_) | Self::Tokens(_) => 1,
            Self::Windows { geometry, .. } => geometry.groups,
        }
    }

    /// Inputs of a row.
    pub(crate) fn inputs(&self) -> usize {
        match self {
            Self::Vectors(inputs) | Self::Tokens(inputs) => *inputs,
            Self::Windows { geometry, .. } => {
                let taps: usize = geometry.axes.iter().map(|axis| axis.kernel).product();
                geometry.inputs / geometry.groups * taps
            }
        }
    }

    /// Values of a blob that belong to one sample of a batch.
    fn sample_len(&self) -> usize {
        match self {
            Self::Vectors(inputs) => *inputs,
            Self::Tokens(_) => 1,
            Self::Windows { geometry, .. } => geometry.inputs * self.plane_in(geometry),
        }
    }

    fn plane_in(&self, geometry: &Geometry) -> usize {
        match self {
            Self::Windows { transposed: true, .. } => geometry.output_len(),
            _ => geometry.input_len(),
        }
    }

    /// Positions in a sample of a batch.
    fn sample_positions(&self) -> usize {
        match self {
            Self::Vectors(_) | Self::Tokens(_) => 1,
            Self::Windows { geometry, transposed: false } => geometry.output_len(),
            Self::Windows { geometry, transposed: true } => geometry.input_len(),
        }
    }

    /// Positions of a blob of `len` values.
    pub(crate) fn positions(&self, len: usize) -> usize {
        len.checked_div(self.sample_len()).unwrap_or(0) * self.sample_positions()
    }

    /// The inputs at a position, for each group one after the other.
    pub(crate) fn read(&self, blob: &[f32], position: usize, out: &mut Vec<f32>) {
        out.clear();
        let (sample, position) = (position / self.sample_positions(), position % self.sample_positions());
        let blob = &blob[sample * self.sample_len()..][..self.sample_len()];
        match self {
            Self::Vectors(_) => out.extend_from_slice(blob),
            Self::Tokens(count) => {
                out.resize(*count, 0.0);
                let token = blob.first().map_or(0, |&token| token as usize);
                if let Some(place) = out.get_mut(token) {
                    *place = 1.0;
                }
            }
            Self::Windows { geometry, transposed } => {
                let taps = taps(geometry, *transposed, position);
                for channel in blob.chunks(self.plane_in(geometry)) {
                    out.extend(taps.iter().map(|tap| tap.map_or(0.0, |at| channel[at])));
                }
            }
        }
    }

    /// Adds the inputs at some positions, of the blob in the float network and in the quantized one.
    pub(crate) fn read_all(&self, float: &[f32], quantized: Option<&[f32]>, positions: &[usize], all: &mut Inputs) {
        let (mut own, mut other) = (Vec::new(), Vec::new());
        for &position in positions {
            self.read(float, position, &mut own);
            if let Some(quantized) = quantized {
                self.read(quantized, position, &mut other);
                all.push(&own, &other);
            } else {
                all.push(&own, &own);
            }
        }
    }
}

/// For each tap of the window at a position, where in a channel its input is, if it exists.
fn taps(geometry: &Geometry, transposed: bool, position: usize) -> Vec<Option<usize>> {
    let axes = &geometry.axes;
    let lens = axes.map(|axis| if transposed { axis.input } else { axis.output });
    let read = axes.map(|axis| if transposed { axis.output } else { axis.input });
    let places = [position / (lens[1] * lens[2]), position / lens[2] % lens[1], position % lens[2]];
    let of_axis = |index: usize| -> Vec<Option<usize>> {
        let (axis, place) = (&axes[index], places[index]);
        let at = |tap: usize| {
            if transposed {
                // place = at * stride + tap * dilation - before
                let scaled = (place + axis.before).checked_sub(tap * axis.dilation)?;
                (scaled % axis.stride == 0).then_some(scaled / axis.stride).filter(|&at| at < axis.output)
            } else {
                axis.input_at(place, tap)
            }
        };
        (0..axis.kernel).map(at).collect()
    };
    let [deep, high, wide] = [of_axis(0), of_axis(1), of_axis(2)];
    let mut taps = Vec::with_capacity(deep.len() * high.len() * wide.len());
    for d in &deep {
        for h in &high {
            for w in &wide {
                taps.push(match (d, h, w) {
                    (Some(d), Some(h), Some(w)) => Some((d * read[1] + h) * read[2] + w),
                    _ => None,
                });
            }
        }
    }
    taps
}

/// The weight of a transposed convolution, `[inputs, outputs of a group, taps]`, as rows for each output:
/// `[groups, outputs of a group, inputs of a group, taps]`; and back with `back`.
pub(crate) fn transpose<T: Copy + Default>(values: &[T], geometry: &Geometry, back: bool) -> Vec<T> {
    let taps: usize = geometry.axes.iter().map(|axis| axis.kernel).product();
    let (inputs, outputs) = (geometry.inputs / geometry.groups, geometry.outputs / geometry.groups);
    let mut other = vec![T::default(); values.len()];
    for group in 0..geometry.groups {
        for input in 0..inputs {
            for output in 0..outputs {
                let stored = ((group * inputs + input) * outputs + output) * taps;
                let as_rows = ((group * outputs + output) * inputs + input) * taps;
                let (from, to) = if back { (as_rows, stored) } else { (stored, as_rows) };
                other[to..to + taps].copy_from_slice(&values[from..from + taps]);
            }
        }
    }
    other
}

#[cfg(test)]
mod tests {
    use super::{Reading, transpose};
    use crate::calibrate::moments::generator;
    use crate::predict::engine::{Axis, Geometry, convolution, deconvolution};
    use rand::RngExt;

    fn geometries() -> Vec<Geometry> {
        let axis =
            |input, kernel, stride, dilation, before, output| Axis { input, output, kernel, stride, dilation, before };
        vec![
            Geometry {
                inputs: 3,
                outputs: 4,
                groups: 1,
                axes: [Axis::whole(1), axis(7, 3, 2, 1, 1, 4), axis(6, 2, 1, 2, 0, 4)],
            },
            Geometry {
                inputs: 6,
                outputs: 4,
                groups: 2,
                axes: [Axis::whole(1), axis(5, 3, 1, 1, 1, 5), axis(9, 3, 3, 1, 0, 3)],
            },
            Geometry {
                inputs: 4,
                outputs: 8,
                groups: 4,
                axes: [axis(4, 2, 1, 1, 0, 3), axis(5, 3, 2, 1, 1, 3), Axis::whole(2)],
            },
        ]
    }

    /// The layer's outputs as the weight's rows times what is read are the engine's.
    #[test]
    fn rows_times_windows_are_the_convolution() {
        let mut rng = generator(1);
        let mut random = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
        for geometry in geometries() {
            for transposed in [false, true] {
                let reading = Reading::Windows { geometry, transposed };
                let taps: usize = geometry.axes.iter().map(|axis| axis.kernel).product();
                let weights = random(geometry.outputs * geometry.inputs / geometry.groups * taps);
                let (read, made) = if transposed {
                    (geometry.output_len(), geometry.input_len())
                } else {
                    (geometry.input_len(), geometry.output_len())
                };
                let blob = random(2 * geometry.inputs * read);
                assert_eq!(reading.positions(blob.len()), 2 * made);
                let rows = if transposed { transpose(&weights, &geometry, false) } else { weights.clone() };
                if transposed {
                    assert_eq!(transpose(&rows, &geometry, true), weights);
                }
                let per_group = geometry.outputs / geometry.groups;
                let mut window = Vec::new();
                for sample in 0..2 {
                    let input = &blob[sample * geometry.inputs * read..][..geometry.inputs * read];
                    let mut expected = vec![0.0; geometry.outputs * made];
                    if transposed {
                        deconvolution(&mut expected, input, &weights, None, &geometry);
                    } else {
                        convolution(&mut expected, input, &weights, None, &geometry);
                    }
                    for position in 0..made {
                        reading.read(&blob, sample * made + position, &mut window);
                        assert_eq!(window.len(), reading.groups() * reading.inputs());
                        for output in 0..geometry.outputs {
                            let inputs = window.chunks(reading.inputs()).nth(output / per_group).unwrap();
                            let row = &rows[output * reading.inputs()..][..reading.inputs()];
                            let found: f32 = row.iter().zip(inputs).map(|(w, x)| w * x).sum();
                            assert!((found - expected[output * made + position]).abs() < 1e-4);
                        }
                    }
                }
            }
        }
    }
}

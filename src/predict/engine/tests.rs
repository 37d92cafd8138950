//! The kernels against the definitions, written out.

use proptest::prelude::*;

use super::*;

/// Values that float32 sums of a few dozen products hold exactly.
fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|index| ((index * 7 + seed * 13) % 11) as f32 - 5.0).collect()
}

prop_compose! {
    fn axis()(input in 1_usize..9, kernel in 1_usize..5, stride in 1_usize..4, dilation in 1_usize..3, before in 0_usize..4, after in 0_usize..4) -> Option<Axis> {
        let reach = (kernel - 1) * dilation + 1;
        let room = (input + before + after).checked_sub(reach)?;
        Some(Axis { input, output: room / stride + 1, kernel, stride, dilation, before })
    }
}

prop_compose! {
    fn geometry()(axes in [axis(), axis(), axis()], groups in 1_usize..4, inputs in 1_usize..4, outputs in 1_usize..4) -> Option<Geometry> {
        let [deep, high, wide] = axes;
        Some(Geometry { inputs: inputs * groups, outputs: outputs * groups, groups, axes: [deep?, high?, wide?] })
    }
}

/// Every product of a convolution: output channel and position, input channel and position, weight.
fn each_product(geometry: &Geometry, mut visit: impl FnMut(usize, usize, usize)) {
    let [deep, high, wide] = geometry.axes;
    let (inputs, outputs) = (geometry.group_inputs(), geometry.group_outputs());
    for o in 0..geometry.outputs {
        for i in 0..inputs {
            let channel = o / outputs * inputs + i;
            for z in 0..deep.output {
                for y in 0..high.output {
                    for x in 0..wide.output {
                        for (zt, yt, xt) in (0..deep.kernel)
                            .flat_map(|z| (0..high.kernel).flat_map(move |y| (0..wide.kernel).map(move |x| (z, y, x))))
                        {
                            let (Some(zi), Some(yi), Some(xi)) =
                                (deep.input_at(z, zt), high.input_at(y, yt), wide.input_at(x, xt))
                            else {
                                continue;
                            };
                            let out = ((o * deep.output + z) * high.output + y) * wide.output + x;
                            let input = ((channel * deep.input + zi) * high.input + yi) * wide.input + xi;
                            let weight = (((o * inputs + i) * deep.kernel + zt) * high.kernel + yt) * wide.kernel + xt;
                            visit(out, input, weight);
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn convolutions_are_sums_of_products(geometry in geometry()) {
        let Some(geometry) = geometry else { return Ok(()) };
        let input = values(geometry.inputs * geometry.input_len(), 1);
        let weights = values(geometry.outputs * geometry.group_inputs() * geometry.taps(), 2);
        let bias = values(geometry.outputs, 3);
        let mut out = vec![0.0; geometry.outputs * geometry.output_len()];
        let mut expected: Vec<f32> = bias.iter().flat_map(|&bias| vec![bias; geometry.output_len()]).collect();
        each_product(&geometry, |out, at, weight| expected[out] += input[at] * weights[weight]);
        convolution(&mut out, &input, &weights, Some(&bias), &geometry);
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn deconvolutions_are_the_transpose(geometry in geometry()) {
        let Some(geometry) = geometry else { return Ok(()) };
        // A deconvolution from the convolution's outputs to its inputs, with the same weights.
        let transpose = Geometry { inputs: geometry.outputs, outputs: geometry.inputs, ..geometry };
        let input = values(geometry.outputs * geometry.output_len(), 1);
        let weights = values(geometry.outputs * geometry.group_inputs() * geometry.taps(), 2);
        let mut out = vec![0.0; geometry.inputs * geometry.input_len()];
        let mut expected = vec![0.0; out.len()];
        each_product(&geometry, |at, out, weight| expected[out] += input[at] * weights[weight]);
        deconvolution(&mut out, &input, &weights, None, &transpose);
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn products_are_sums_of_products(rows in 0_usize..150, columns in 0_usize..40, depth in 0_usize..70) {
        let (a, b) = (values(rows * depth, 1), values(depth * columns, 2));
        let mut out = values(rows * columns, 3);
        let mut expected = out.clone();
        for row in 0..rows {
            for column in 0..columns {
                expected[row * columns + column] += (0..depth).map(|k| a[row * depth + k] * b[k * columns + column]).sum::<f32>();
            }
        }
        gemm(&mut out, Matrix::new(&a, rows, depth), Matrix::new(&b, depth, columns), true);
        prop_assert_eq!(&out, &expected);
        let vector = values(depth, 4);
        let mut out = vec![0.5; rows];
        linear(&mut out, &vector, &a, depth, rows);
        let expected: Vec<f32> = (0..rows).map(|row| 0.5 + (0..depth).map(|k| a[row * depth + k] * vector[k]).sum::<f32>()).collect();
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn windows_are_pooled(axes in [axis(), axis(), axis()]) {
        let [Some(deep), Some(high), Some(wide)] = axes.map(|axis| axis.map(|axis| Axis { dilation: 1, ..axis })) else { return Ok(()) };
        let geometry = Geometry { inputs: 1, outputs: 1, groups: 1, axes: [deep, high, wide] };
        let input = values(geometry.input_len(), 5);
        let mut windows = vec![Vec::new(); geometry.output_len()];
        each_product(&geometry, |out, at, _| windows[out].push(input[at]));
        for pooling in [Pooling::Max, Pooling::Average, Pooling::AverageOfInside, Pooling::L2] {
            let mut out = vec![0.0; geometry.output_len()];
            pool(&mut out, &input, pooling, geometry.axes);
            for (out, window) in out.iter().zip(&windows) {
                let sum: f32 = window.iter().sum();
                let expected = match pooling {
                    Pooling::Max => window.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                    Pooling::Average => sum / geometry.taps() as f32,
                    Pooling::AverageOfInside => sum / window.len().max(1) as f32,
                    Pooling::L2 => window.iter().map(|value| value * value).sum::<f32>().sqrt(),
                };
                prop_assert_eq!(*out, expected);
            }
        }
    }
}

/// Large enough for several tiles and threads.
#[test]
fn thread_count_changes_no_bit() {
    let axis = Axis { input: 150, output: 150, kernel: 3, stride: 1, dilation: 1, before: 1 };
    let geometry = Geometry { inputs: 16, outputs: 20, groups: 1, axes: [Axis::whole(1), axis, axis] };
    let random = |len: usize, seed: u32| -> Vec<f32> {
        (0..len as u32)
            .map(|index| (index.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 1e7 - 0.8)
            .collect()
    };
    let input = random(16 * 150 * 150, 1);
    let weights = random(20 * 16 * 9, 2);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut out = vec![0.0; 20 * 150 * 150];
            convolution(&mut out, &input, &weights, None, &geometry);
            let mut transposed = vec![0.0; 16 * 150 * 150];
            let geometry = Geometry { inputs: 20, outputs: 16, ..geometry };
            deconvolution(&mut transposed, &out, &weights, None, &geometry);
            (out, transposed)
        })
    };
    assert_eq!(run(1), run(2));
}

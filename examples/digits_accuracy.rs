//! How many of the digits model's held-out samples are still right, by mode and size: decodes the quantized weights and
//! runs the network in float32. Prints a Markdown table.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use coreml_quant::{Mode, Model, Planner, QuantConfig, Target, quantize_weights};

type Weights = BTreeMap<(String, String), Vec<f32>>;

/// A stack of planes: channels x size x size.
struct Planes {
    channels: usize,
    size: usize,
    values: Vec<f32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/digits");
    let model = Model::open(folder.join("digits.mlmodel"))?;
    let samples = samples(&fs::read_to_string(folder.join("samples.csv"))?)?;
    let full = model.to_bytes().len();
    println!("| weights | bytes | of the original | SQNR | right of {} |\n|---|---|---|---|---|", samples.len());
    println!("| float32 | {full} | 100.0 % | | {} |", right(&model, &samples)?);
    let print = |name: String, config: QuantConfig| -> Result<(), Box<dyn Error>> {
        let quantized = quantize_weights(&model, &config)?;
        let bytes = quantized.model.to_bytes().len();
        let sqnr = quantized.report.sqnr_db().ok_or("not measured")?;
        let share = 100.0 * bytes as f64 / full as f64;
        println!("| {name} | {bytes} | {share:.1} % | {sqnr:.1} dB | {} |", right(&quantized.model, &samples)?);
        Ok(())
    };
    print("float16".into(), QuantConfig::float16())?;
    for mode in [Mode::Linear, Mode::LinearSymmetric, Mode::LinearLut, Mode::KmeansLut] {
        for nbits in [8, 6, 4, 3, 2, 1].into_iter().filter(|nbits| mode.nbits().contains(nbits)) {
            print(format!("{mode} {nbits} bits"), QuantConfig::from_mode(mode, Some(nbits))?)?;
        }
    }
    for bits in [8.0, 6.0, 4.0, 3.0, 2.5, 2.0, 1.5] {
        let plan = Planner::new(Target::AverageBits(bits)).plan(&model)?;
        print(format!("planned, {bits} bits on average"), QuantConfig::planned(plan))?;
    }
    Ok(())
}

/// Labels and images.
fn samples(text: &str) -> Result<Vec<(usize, Planes)>, Box<dyn Error>> {
    let sample = |line: &str| -> Result<(usize, Planes), Box<dyn Error>> {
        let (label, pixels) = line.split_once(',').ok_or("a sample without pixels")?;
        let values = pixels.split(',').map(str::parse).collect::<Result<Vec<f32>, _>>()?;
        Ok((label.parse()?, Planes { channels: 1, size: 8, values }))
    };
    text.lines().skip(1).map(sample).collect()
}

/// How many samples the model labels right.
fn right(model: &Model, samples: &[(usize, Planes)]) -> Result<usize, Box<dyn Error>> {
    let decoded = quantize_weights(model, &QuantConfig::dequantize())?.model;
    let mut weights = Weights::new();
    for layer in decoded.layers() {
        for weight in layer.weights {
            let values = weight.params.ok_or("a weight is missing")?.float_value.iter().collect();
            weights.insert((layer.layer.name.clone(), weight.field.into_owned()), values);
        }
    }
    let mut count = 0;
    for (label, image) in samples {
        let scores = scores(&weights, image)?;
        let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        count += usize::from(best == Some(*label));
    }
    Ok(count)
}

/// The network up to its softmax, which does not change the order.
fn scores(weights: &Weights, image: &Planes) -> Result<Vec<f32>, Box<dyn Error>> {
    let first = block(weights, image, 1)?;
    let second = pooled(&block(weights, &first, 2)?);
    let mut hidden = dense(weights, &second.values, "dense_1")?;
    hidden.iter_mut().for_each(|value| *value = value.max(0.0));
    dense(weights, &hidden, "dense_2")
}

fn get<'w>(weights: &'w Weights, layer: &str, field: &str) -> Result<&'w [f32], Box<dyn Error>> {
    let found = weights.get(&(layer.to_owned(), field.to_owned()));
    found.map(Vec::as_slice).ok_or_else(|| format!("no {field} of {layer}").into())
}

/// A convolution (3 x 3, zero padding), batchnorm unless it was folded, and ReLU.
fn block(weights: &Weights, input: &Planes, index: usize) -> Result<Planes, Box<dyn Error>> {
    let (convolution, norm) = (format!("conv_{index}"), format!("batchnorm_{index}"));
    let kernels = get(weights, &convolution, "weights")?;
    let bias = get(weights, &convolution, "bias").ok();
    let size = input.size;
    let mut values = Vec::new();
    for (channel, kernel) in kernels.chunks(9 * input.channels).enumerate() {
        let (mut scale, mut shift) = (1.0, bias.map_or(0.0, |bias| bias[channel]));
        if let Ok(gamma) = get(weights, &norm, "gamma") {
            // Epsilon as the model has it.
            scale = gamma[channel] / (get(weights, &norm, "variance")?[channel] + 1e-5).sqrt();
            shift = get(weights, &norm, "beta")?[channel] + (shift - get(weights, &norm, "mean")?[channel]) * scale;
        }
        for y in 0..size {
            for x in 0..size {
                let mut sum = 0.0;
                for (plane, kernel) in input.values.chunks(size * size).zip(kernel.chunks(9)) {
                    for (tap, weight) in kernel.iter().enumerate() {
                        let (row, column) = (y + tap / 3, x + tap % 3);
                        if (1..=size).contains(&row) && (1..=size).contains(&column) {
                            sum += weight * plane[(row - 1) * size + column - 1];
                        }
                    }
                }
                values.push((sum * scale + shift).max(0.0));
            }
        }
    }
    Ok(Planes { channels: values.len() / (size * size), size, values })
}

/// The largest of each 2 x 2.
fn pooled(input: &Planes) -> Planes {
    let (size, half) = (input.size, input.size / 2);
    let of_plane = |plane: &[f32]| -> Vec<f32> {
        let corners = (0..half * half).map(|i| (i / half * 2 * size) + i % half * 2);
        corners.map(|at| plane[at].max(plane[at + 1]).max(plane[at + size]).max(plane[at + size + 1])).collect()
    };
    let values = input.values.chunks(size * size).flat_map(of_plane).collect();
    Planes { channels: input.channels, size: half, values }
}

fn dense(weights: &Weights, input: &[f32], layer: &str) -> Result<Vec<f32>, Box<dyn Error>> {
    let rows = get(weights, layer, "weights")?.chunks(input.len());
    let bias = get(weights, layer, "bias")?;
    Ok(rows.zip(bias).map(|(row, bias)| row.iter().zip(input).map(|(a, b)| a * b).sum::<f32>() + bias).collect())
}

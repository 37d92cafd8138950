//! What is left of trained networks in few bits: accuracy, and the signal-to-noise ratio of their outputs.
//!
//! The networks and their data are no part of the repository: they are found beside it (`../shared/accuracy`), or in the
//! folder that `COREML_QUANT_ACCURACY` names; public networks in `../shared/models` or `COREML_QUANT_MODELS`. Without
//! them only the digits are measured. Each test prints its rows of the table (`cargo test --test accuracy -- --nocapture`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coreml_quant::predict::{Features, Predictor};
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::{
    Biases, Calibration, Linear, LinearRange, Mode, Model, Nbits, Planner, QuantConfig, Target, check, quantize_weights,
};
use ndarray::{Array3, ArrayD, Axis, IxDyn};
use ndarray_npy::NpzReader;
use rayon::prelude::*;

fn folder(variable: &str, beside: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join(beside);
    let folder = std::env::var_os(variable).map_or(beside, PathBuf::from);
    if !folder.is_dir() {
        println!("{} is not there: not measured", folder.display());
        return None;
    }
    Some(folder)
}

fn accuracy_folder() -> Option<PathBuf> {
    folder("COREML_QUANT_ACCURACY", "../shared/accuracy")
}

fn npz(path: &Path) -> NpzReader<std::fs::File> {
    NpzReader::new(std::fs::File::open(path).unwrap()).unwrap()
}

fn config(mode: Mode, nbits: u32) -> QuantConfig {
    QuantConfig::from_mode(mode, Some(nbits)).unwrap()
}

/// The blob that is compared: what goes into a last softmax, or the last.
fn watched(model: &Model) -> String {
    let layers = match model.proto().r#type.as_ref().unwrap() {
        Type::NeuralNetwork(network) => &network.layers,
        Type::NeuralNetworkClassifier(network) => &network.layers,
        _ => unreachable!("networks only"),
    };
    let last = layers.last().unwrap();
    match last.layer {
        Some(Layer::Softmax(_) | Layer::SoftmaxNd(_)) => last.input[0].clone(),
        _ => last.output[0].clone(),
    }
}

/// The watched blob for each sample.
fn outputs(model: &Model, samples: &[Features], watched: &str) -> Vec<Vec<f32>> {
    let predictor = Predictor::new(model).unwrap();
    let run = |sample: &Features| {
        let mut found = Vec::new();
        predictor
            .predict_with(sample, |layer, outputs| {
                if let Some(at) = layer.outputs.iter().position(|name| **name == *watched) {
                    found = outputs[at].iter().copied().collect();
                }
            })
            .unwrap();
        assert!(!found.is_empty(), "{watched}");
        found
    };
    samples.par_iter().map(run).collect()
}

fn snr(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    let (mut signal, mut noise) = (0.0, 0.0);
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        signal += f64::from(*expected).powi(2);
        noise += f64::from(found - expected).powi(2);
    }
    10.0 * (signal / noise).log10()
}

/// Pictures with labels, and a model that tells them apart.
struct Task {
    name: String,
    model: Model,
    calibration: Vec<Features>,
    test: Vec<Features>,
    labels: Vec<usize>,
    watched: String,
    float: Vec<Vec<f32>>,
}

/// Accuracy in percent and the ratio of the outputs in decibels.
type Score = (f64, f64);

impl Task {
    fn new(name: &str, model: Model, calibration: Vec<Features>, test: Vec<Features>, labels: Vec<usize>) -> Self {
        let watched = watched(&model);
        let float = outputs(&model, &test, &watched);
        let task = Self { name: name.to_owned(), model, calibration, test, labels, watched, float };
        println!("{name}: float {:.1} %", task.score(&task.model).0);
        task
    }

    fn fashion(name: &str) -> Option<Self> {
        let folder = accuracy_folder()?;
        let model = Model::open(folder.join(format!("{name}.mlmodel"))).unwrap();
        let mut data = npz(&folder.join("fashion.npz"));
        let input = Predictor::new(&model).unwrap().inputs()[0].name.clone();
        let mut pictures = |array: &str| -> Vec<Features> {
            let all: ArrayD<u8> = data.by_name(array).unwrap();
            let picture = |picture: ndarray::ArrayViewD<'_, u8>| picture.mapv(|value| f32::from(value) / 255.0);
            all.axis_iter(Axis(0)).map(|array| Features::new().with(&input, picture(array))).collect()
        };
        let (calibration, test) = (pictures("calibration"), pictures("x"));
        let labels: ArrayD<u8> = data.by_name("y").unwrap();
        Some(Self::new(name, model, calibration, test, labels.into_iter().map(usize::from).collect()))
    }

    fn score(&self, model: &Model) -> Score {
        let found = outputs(model, &self.test, &self.watched);
        let best = |values: &[f32]| (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
        let right = found.iter().zip(&self.labels).filter(|(values, label)| best(values) == **label).count();
        (100.0 * right as f64 / self.labels.len() as f64, snr(&found, &self.float))
    }

    fn samples(&self) -> Calibration {
        Calibration::new(self.calibration.iter().cloned())
    }

    /// Quantizes and prints a row; fails if more than `points` of accuracy are lost, or less than `db` is left.
    fn row(&self, what: &str, config: &QuantConfig, points: f64, db: f64) {
        let quantized = quantize_weights(&self.model, config).unwrap();
        assert!(check(&quantized.model).is_empty());
        let (accuracy, snr) = self.score(&quantized.model);
        let lost = self.score(&self.model).0 - accuracy;
        let bytes = quantized.model.to_bytes().len();
        println!("| {} | {what} | {bytes} | {accuracy:.1} | {snr:.1} |", self.name);
        assert!(lost <= points && snr >= db, "{what}: {lost:.1} points lost, {snr:.1} dB");
    }

    /// As [`row`](Self::row), with bits by sensitivity, in a file of so many bytes.
    fn planned(&self, bytes: u64, calibration: Calibration, points: f64) {
        let planner = Planner::new(Target::Bytes(bytes)).with_modes([Mode::KmeansLut]);
        let plan = planner.with_calibration(calibration.clone()).plan(&self.model).unwrap();
        let config = QuantConfig::planned(plan).with_calibration(calibration);
        let quantized = quantize_weights(&self.model, &config).unwrap();
        assert!(quantized.model.to_bytes().len() as u64 <= bytes);
        self.row(&format!("planned for {bytes} bytes"), &config, points, 0.0);
    }
}

const ANY: f64 = 100.0;

#[test]
fn residual_network() {
    let Some(task) = Task::fashion("fashion_resnet") else { return };
    for (nbits, points, db) in [(4, 0.5, 32.0), (3, 0.8, 26.0), (2, 1.5, 19.0)] {
        let config = config(Mode::KmeansLut, nbits);
        task.row(&format!("kmeans_lut {nbits}, data-free"), &config, ANY, -9.0);
        task.row(&format!("kmeans_lut {nbits}, samples"), &config.with_calibration(task.samples()), points, db);
    }
    let synthetic = || Calibration::synthetic(128);
    let two = config(Mode::KmeansLut, 2).with_calibration(synthetic());
    task.row("kmeans_lut 2, synthetic", &two, 2.5, 14.0);
    task.planned(21_300, task.samples(), 0.6);
    // From 0.9 to 1.6 points are lost, depending on what is drawn.
    task.planned(21_300, synthetic(), 1.6);
}

#[test]
fn mobile_network() {
    let Some(task) = Task::fashion("fashion_mobile") else { return };
    let synthetic = || Calibration::synthetic(128);
    let four = || config(Mode::KmeansLut, 4);
    task.row("kmeans_lut 4, data-free", &four(), ANY, 0.0);
    task.row("kmeans_lut 4, samples", &four().with_calibration(task.samples()), 0.8, 20.0);
    task.row("kmeans_lut 4, synthetic", &four().with_calibration(synthetic()), 1.5, 16.0);
    let least_squares = Linear::new(Nbits::new(3).unwrap()).with_range(LinearRange::LeastSquares);
    task.row("linear 3, data-free, biases in float16", &QuantConfig::custom(least_squares), 1.0, 11.0);
    task.row("linear 3, samples", &config(Mode::Linear, 3).with_calibration(task.samples()), 0.8, 20.0);
    task.planned(22_200, task.samples(), 1.0);
    task.planned(22_200, synthetic(), 2.0);
}

/// The digits that come with the repository: each half is measured with a model that was calibrated on the other.
#[test]
fn digits() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/digits");
    let model = Model::open(folder.join("digits.mlmodel")).unwrap();
    let text = std::fs::read_to_string(folder.join("samples.csv")).unwrap();
    let sample = |line: &str| {
        let (label, pixels) = line.split_once(',').unwrap();
        let pixels: Vec<f32> = pixels.split(',').map(|pixel| pixel.parse().unwrap()).collect();
        let image = Array3::from_shape_vec((1, 8, 8), pixels).unwrap();
        (label.parse::<usize>().unwrap(), Features::new().with("image", image))
    };
    let (labels, samples): (Vec<usize>, Vec<Features>) = text.lines().skip(1).map(sample).unzip();
    let half = samples.len() / 2;
    for (own, other) in [(0..half, half..2 * half), (half..2 * half, 0..half)] {
        let (calibration, test) = (samples[other].to_vec(), samples[own.clone()].to_vec());
        let task = Task::new("digits", model.clone(), calibration, test, labels[own].to_vec());
        task.row("kmeans_lut 2, data-free", &config(Mode::KmeansLut, 2), ANY, 0.0);
        task.row("kmeans_lut 2, 50 samples", &config(Mode::KmeansLut, 2).with_calibration(task.samples()), 2.0, 14.0);
    }
}

/// A photograph's poor relation: a gradient, and shapes with soft edges on it.
fn picture(seed: u64, side: usize) -> ArrayD<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let tilt: Vec<f32> = (0..6).map(|_| random() - 0.5).collect();
    let shapes: Vec<[f32; 8]> = (0..30).map(|_| std::array::from_fn(|_| random())).collect();
    let side_f = side as f32;
    ArrayD::from_shape_fn(IxDyn(&[3, side, side]), |at| {
        let (channel, row, column) = (at[0], at[1] as f32 / side_f, at[2] as f32 / side_f);
        let mut value = 0.5 + tilt[2 * channel] * row + tilt[2 * channel + 1] * column;
        for shape in &shapes {
            let (down, right) = (row - shape[0], column - shape[1]);
            let (high, wide) = (0.02 + 0.25 * shape[2] * shape[2], 0.02 + 0.25 * shape[3] * shape[3]);
            let inside = 1.0 - ((down / high).powi(2) + (right / wide).powi(2)).sqrt();
            let cover = (0.5 + inside * 20.0 * shape[7]).clamp(0.0, 1.0);
            value += cover * (shape[4 + channel] - value);
        }
        (255.0 * value).clamp(0.0, 255.0)
    })
}

#[test]
fn hourglass() {
    let Some(folder) = folder("COREML_QUANT_MODELS", "../shared/models") else { return };
    let path = folder.join("edvardHua__PoseEstimationForMobile__hourglass.mlmodel");
    if !path.exists() {
        return;
    }
    let model = Model::open(path).unwrap();
    let watched = watched(&model);
    let pictures = |seeds: std::ops::Range<u64>| -> Vec<Features> {
        seeds.map(|seed| Features::new().with("image__0", picture(seed, 192))).collect()
    };
    let test = pictures(100..108);
    let float = outputs(&model, &test, &watched);
    let row = |what: &str, config: &QuantConfig, db: f64| {
        let quantized = quantize_weights(&model, config).unwrap().model;
        assert!(check(&quantized).is_empty());
        let snr = snr(&outputs(&quantized, &test, &watched), &float);
        println!("| hourglass | {what} | {} | | {snr:.1} |", quantized.to_bytes().len());
        assert!(snr >= db, "{what}: {snr:.1} dB");
        snr
    };
    let eight = |biases| {
        let least_squares = Linear::new(Nbits::EIGHT).with_range(LinearRange::LeastSquares);
        QuantConfig::custom(least_squares).with_biases(biases)
    };
    let as_weights = row("linear 8, data-free, biases as weights", &eight(Biases::AsWeights), 5.0);
    let in_float16 = row("linear 8, data-free, biases in float16", &eight(Biases::Float16), 15.0);
    assert!(in_float16 > as_weights + 7.0);
    let six = config(Mode::Linear, 6);
    row("linear 6, data-free", &six, 0.0);
    row("linear 6, 16 samples", &six.clone().with_calibration(Calibration::new(pictures(0..16))), 15.0);
    row("linear 6, synthetic", &six.with_calibration(Calibration::synthetic(16)), 13.0);
}

const SEQUENCE: usize = 128;
const CHARACTERS: usize = 94;
const UNITS: usize = 160;

fn one_hot(text: &[u8]) -> Features {
    let mut steps = ArrayD::zeros(IxDyn(&[text.len(), 1, CHARACTERS]));
    for (step, &code) in text.iter().enumerate() {
        steps[[step, 0, usize::from(code)]] = 1.0;
    }
    let zeros = || ArrayD::<f32>::zeros(IxDyn(&[UNITS]));
    Features::new().with("chars", steps).with("h_in", zeros()).with("c_in", zeros())
}

/// Bits a character of a model that predicts text.
fn bits_a_character(model: &Model, test: &[u8]) -> f64 {
    let samples: Vec<Features> = test.chunks(SEQUENCE).map(one_hot).collect();
    let logits = outputs(model, &samples, "logits");
    let bits = |(logits, text): (&Vec<f32>, &[u8])| -> f64 {
        let of_step = |(logits, &next): (&[f32], &u8)| {
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            (sum.ln() - f64::from(logits[usize::from(next)])) / std::f64::consts::LN_2
        };
        logits.chunks(CHARACTERS).zip(&text[1..]).map(of_step).sum()
    };
    let total: f64 = logits.iter().zip(test.chunks(SEQUENCE)).map(bits).sum();
    total / (test.len() - test.chunks(SEQUENCE).count()) as f64
}

#[test]
fn text() {
    let Some(folder) = accuracy_folder() else { return };
    let model = Model::open(folder.join("char_lstm.mlmodel")).unwrap();
    let mut data = npz(&folder.join("text.npz"));
    let codes: BTreeMap<&str, Vec<u8>> = ["calibration", "test"]
        .into_iter()
        .map(|name| (name, data.by_name::<ndarray::OwnedRepr<u8>, IxDyn>(name).unwrap().into_iter().collect()))
        .collect();
    let float = bits_a_character(&model, &codes["test"]);
    println!("char_lstm: float {float:.3} bits a character");
    for (mode, nbits, most) in [(Mode::Linear, 4, 0.02), (Mode::Linear, 3, 0.06), (Mode::KmeansLut, 2, 0.25)] {
        let config = config(mode, nbits);
        let samples = Calibration::new(codes["calibration"].chunks(SEQUENCE).map(one_hot));
        let data_free = quantize_weights(&model, &config).unwrap().model;
        let calibrated = quantize_weights(&model, &config.with_calibration(samples)).unwrap().model;
        assert!(check(&calibrated).is_empty());
        let (before, after) =
            (bits_a_character(&data_free, &codes["test"]), bits_a_character(&calibrated, &codes["test"]));
        println!("| char_lstm | {mode} {nbits} | {} | {before:.3} -> {after:.3} | |", calibrated.to_bytes().len());
        assert!(after < before && after <= float + most, "{mode} {nbits}");
    }
}

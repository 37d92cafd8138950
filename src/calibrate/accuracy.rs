//! The accuracy of trained networks in few bits, on the networks and data beside the checkout (`../shared/accuracy`, or
//! the folder that `COREML_QUANT_ACCURACY` names).

use std::collections::BTreeMap;
use std::path::PathBuf;

use ndarray::{ArrayD, Axis};
use ndarray_npy::NpzReader;
use rayon::prelude::*;

use super::network::forward;
use super::{Calibration, Sample};
use crate::predict::Tensor;
use crate::{Biases, Linear, LinearRange, Mode, Model, Nbits, Planner, QuantConfig, Target, quantize_weights};

fn folder() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/accuracy");
    let folder = std::env::var_os("COREML_QUANT_ACCURACY").map_or(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// Pictures with labels, and a model that tells them apart.
struct Task {
    model: Model,
    calibration: Vec<Sample>,
    test: Vec<Sample>,
    labels: Vec<usize>,
    /// The inputs of the last softmax for each test picture, in the float network.
    float: Vec<Vec<f32>>,
}

impl Task {
    fn new(name: &str) -> Option<Self> {
        let folder = folder()?;
        let model = Model::open(folder.join(name)).unwrap();
        let mut data = NpzReader::new(std::fs::File::open(folder.join("fashion.npz")).unwrap()).unwrap();
        let input = model.proto().description.as_ref().unwrap().input[0].name.clone();
        let mut pictures = |name: &str| -> Vec<Sample> {
            let all: ArrayD<u8> = data.by_name(name).unwrap();
            let sample = |picture: ndarray::ArrayViewD<'_, u8>| {
                BTreeMap::from([(input.clone(), picture.mapv(|value| f32::from(value) / 255.0))])
            };
            all.axis_iter(Axis(0)).map(sample).collect()
        };
        let (calibration, test) = (pictures("calibration"), pictures("x"));
        let labels: Vec<usize> = match data.by_name::<ndarray::OwnedRepr<i64>, ndarray::Ix1>("y") {
            Ok(labels) => labels.iter().map(|&label| label as usize).collect(),
            Err(_) => {
                let labels: ndarray::Array1<u8> = data.by_name("y").unwrap();
                labels.iter().map(|&label| usize::from(label)).collect()
            }
        };
        let mut task = Self { model, calibration, test, labels, float: Vec::new() };
        task.float = task.logits(&task.model);
        Some(task)
    }

    fn logits(&self, model: &Model) -> Vec<Vec<f32>> {
        let layers = crate::network::walk::network(model.proto()).unwrap().0;
        let last = layers.last().unwrap();
        let is_softmax = matches!(crate::layer_type(last), Some("softmax" | "softmaxND"));
        let output = if is_softmax { &last.input[0] } else { &last.output[0] };
        let blobs = Calibration::new(self.test.iter().cloned()).blobs(model.proto());
        let run = |blobs: BTreeMap<String, Tensor>| forward(model.proto(), blobs)[output].iter().copied().collect();
        blobs.into_par_iter().map(run).collect()
    }

    /// Accuracy in percent and the signal to noise ratio of the logits in decibels.
    fn score(&self, model: &Model) -> (f64, f64) {
        let logits = self.logits(model);
        let (mut right, mut signal, mut noise) = (0, 0.0, 0.0);
        for ((found, float), &label) in logits.iter().zip(&self.float).zip(&self.labels) {
            let best = (0..found.len()).max_by(|&a, &b| found[a].total_cmp(&found[b])).unwrap();
            right += usize::from(best == label);
            for (found, float) in found.iter().zip(float) {
                signal += f64::from(*float).powi(2);
                noise += f64::from(found - float).powi(2);
            }
        }
        (100.0 * f64::from(right as u32) / self.labels.len() as f64, 10.0 * (signal / noise).log10())
    }
}

#[test]
fn table() {
    for name in ["fashion_resnet.mlmodel", "fashion_mobile.mlmodel"] {
        let Some(task) = Task::new(name) else {
            println!("no networks to measure on: not run");
            return;
        };
        println!("{name}: float {:?}", task.score(&task.model));
        for mode in [Mode::KmeansLut, Mode::Linear] {
            for nbits in [4, 3, 2, 1] {
                let config = || QuantConfig::from_mode(mode, Some(nbits)).unwrap();
                let score = |config: QuantConfig| {
                    let start = std::time::Instant::now();
                    let model = quantize_weights(&task.model, &config).unwrap().model;
                    assert!(crate::check(&model).is_empty());
                    let bytes = model.to_bytes().len();
                    let (accuracy, snr) = task.score(&model);
                    format!("{accuracy:.1} / {snr:.1} ({bytes}, {:.1} s)", start.elapsed().as_secs_f64())
                };
                println!(
                    "{mode} {nbits}: old {}, data-free {}, samples {}, synthetic {}",
                    score(config().with_biases(Biases::AsWeights)),
                    score(config()),
                    score(config().with_calibration(Calibration::new(task.calibration.iter().cloned()))),
                    score(config().with_calibration(Calibration::synthetic(128))),
                );
            }
        }
    }
}

#[test]
fn planned() {
    for (name, sizes) in [("fashion_resnet.mlmodel", [31_300, 21_300]), ("fashion_mobile.mlmodel", [29_500, 22_200])] {
        let Some(task) = Task::new(name) else { return };
        println!("{name}: float {:?}", task.score(&task.model));
        for size in sizes {
            for calibration in [Calibration::new(task.calibration.iter().cloned()), Calibration::synthetic(128)] {
                let start = std::time::Instant::now();
                let planner = Planner::new(Target::Bytes(size)).with_modes([Mode::KmeansLut, Mode::Float16]);
                let plan = planner.with_calibration(calibration.clone()).plan(&task.model).unwrap();
                let planning = start.elapsed().as_secs_f64();
                let config = QuantConfig::planned(plan).with_calibration(calibration);
                let model = quantize_weights(&task.model, &config).unwrap().model;
                println!("{size}: {:?} {} {planning:.1} s", task.score(&model), model.to_bytes().len());
            }
        }
    }
}

/// Bits a character of the model that predicts text.
fn bits_a_character(model: &Model, test: &[u8]) -> f64 {
    let blobs = Calibration::new(test.chunks(SEQUENCE).map(one_hot)).blobs(model.proto());
    let bits = |(blobs, text): (BTreeMap<String, Tensor>, &[u8])| -> f64 {
        let logits: Vec<f32> = forward(model.proto(), blobs)["logits"].iter().copied().collect();
        let steps = logits.chunks(CHARACTERS).zip(&text[1..]);
        steps
            .map(|(logits, &next)| {
                let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                (sum.ln() - f64::from(logits[usize::from(next)])) / std::f64::consts::LN_2
            })
            .sum()
    };
    let total: f64 = blobs.into_par_iter().zip(test.par_chunks(SEQUENCE)).map(bits).sum();
    total / (test.len() - test.chunks(SEQUENCE).count()) as f64
}

const SEQUENCE: usize = 128;
const CHARACTERS: usize = 94;

fn one_hot(text: &[u8]) -> Sample {
    let mut steps = ArrayD::zeros(ndarray::IxDyn(&[text.len(), 1, CHARACTERS]));
    for (step, &code) in text.iter().enumerate() {
        steps[[step, 0, usize::from(code)]] = 1.0;
    }
    BTreeMap::from([("chars".to_owned(), steps)])
}

#[test]
fn text() {
    let Some(folder) = folder() else { return };
    let model = Model::open(folder.join("char_lstm.mlmodel")).unwrap();
    let mut data = NpzReader::new(std::fs::File::open(folder.join("text.npz")).unwrap()).unwrap();
    let mut codes = |name: &str| -> Vec<u8> {
        let codes: ArrayD<u8> = data.by_name(name).unwrap();
        codes.into_iter().collect()
    };
    let (calibration, test) = (codes("calibration"), codes("test"));
    let float = bits_a_character(&model, &test);
    println!("char_lstm: float {float:.3}");
    for (mode, nbits) in
        [(Mode::Linear, 4), (Mode::Linear, 3), (Mode::Linear, 2), (Mode::KmeansLut, 3), (Mode::KmeansLut, 2)]
    {
        let config = QuantConfig::from_mode(mode, Some(nbits)).unwrap();
        let samples = Calibration::new(calibration.chunks(SEQUENCE).map(one_hot));
        let data_free = quantize_weights(&model, &config).unwrap().model;
        let calibrated = quantize_weights(&model, &config.with_calibration(samples)).unwrap().model;
        assert!(crate::check(&calibrated).is_empty());
        let (before, after) = (bits_a_character(&data_free, &test), bits_a_character(&calibrated, &test));
        println!("{mode} {nbits}: {before:.3}, calibrated {after:.3}");
        if (mode, nbits) == (Mode::Linear, 3) {
            assert!(after < float + 0.06);
        }
    }
}

#[test]
fn biases_in_float16_alone() {
    let Some(task) = Task::new("fashion_mobile.mlmodel") else { return };
    let linear = Linear::new(Nbits::new(3).unwrap()).with_range(LinearRange::LeastSquares);
    let model = quantize_weights(&task.model, &QuantConfig::custom(linear)).unwrap().model;
    let (float, found) = (task.score(&task.model), task.score(&model));
    println!("fashion_mobile linear 3, least squares, biases in float16: {found:?}");
    assert!(found.0 > float.0 - 1.0 && found.1 > 11.0);
}

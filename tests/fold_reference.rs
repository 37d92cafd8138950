//! Folding against coremltools 7.2, and on real models.

mod common;
mod evaluate;
mod networks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::{fixture, models_in};
use coreml_quant::{Model, QuantConfig, fold, quantize_weights};
use evaluate::{Tensor, assert_same, evaluate};

/// The stored values of a model, by layer and field.
fn weights(model: &Model) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    for layer in model.layers() {
        use coreml_quant::proto::neural_network_layer::Layer;
        let fields = match layer.layer.layer.as_ref().unwrap() {
            Layer::Convolution(p) => vec![("weights", &p.weights), ("bias", &p.bias)],
            Layer::InnerProduct(p) => vec![("weights", &p.weights), ("bias", &p.bias)],
            Layer::Batchnorm(p) => {
                vec![("gamma", &p.gamma), ("beta", &p.beta), ("mean", &p.mean), ("variance", &p.variance)]
            }
            Layer::Activation(_) => vec![],
            other => panic!("a layer that should be gone: {other:?}"),
        };
        for (field, params) in fields {
            let values = params.as_ref().map(|params| params.float_value.to_vec()).unwrap_or_default();
            all.push((format!("{} {field}", layer.layer.name), values));
        }
    }
    all
}

/// The same layers, wired alike, with the same weights to float32 rounding: coremltools rounds after every step of a
/// chain, we round once.
#[test]
fn agrees_with_coremltools() {
    let mut compared = BTreeSet::new();
    for path in models_in(&fixture("fold")) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name.ends_with("--folded") {
            continue;
        }
        let expected_path = path.with_file_name(format!("{name}--folded.mlmodel"));
        let (original, expected) = (Model::open(&path).unwrap(), Model::open(&expected_path).unwrap());
        let result = fold(&original).unwrap();
        let wiring = |model: &Model| -> Vec<_> {
            let of = |layer: &coreml_quant::LayerSurvey<'_>| {
                (layer.layer.name.clone(), layer.layer.input.clone(), layer.layer.output.clone())
            };
            model.layers().iter().map(of).collect()
        };
        assert_eq!(wiring(&result.model), wiring(&expected), "{name}");
        for ((place, found), (_, expected)) in weights(&result.model).iter().zip(weights(&expected)) {
            assert_eq!(found.len(), expected.len(), "{name}: {place}");
            // A bias is a sum: what its terms round to shows in units of the largest.
            let largest = expected.iter().fold(1.0_f32, |largest, value| value.abs().max(largest));
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                let error = (found - expected).abs();
                let tolerance = if place.ends_with("bias") || place.ends_with("beta") {
                    4.0 * f32::EPSILON * largest
                } else {
                    2.0 * f32::EPSILON * expected.abs()
                };
                assert!(error <= tolerance, "{name}: {place}[{index}] is {found}, {expected} expected");
            }
        }
        // A chain of images, or of vectors.
        let shape: &[usize] = if name.starts_with("inner_product") { &[1, 1, 12, 1, 1] } else { &[1, 0, 9, 8] };
        let channels = match name {
            "batchnorm_scale" => 5,
            "grouped_dilated_batchnorm" | "depthwise_strided_batchnorm" => 6,
            _ => 3,
        };
        let shape: Vec<usize> = shape.iter().map(|&size| if size == 0 { channels } else { size }).collect();
        assert_same(&original, &result.model, &BTreeMap::from([("x".to_owned(), Tensor::noise(&shape, 3))]));
        compared.extend([path.clone(), expected_path]);
    }
    let present: BTreeSet<_> = models_in(&fixture("fold")).into_iter().collect();
    assert_eq!(present, compared, "every file is compared");
    assert!(compared.len() >= 24);
}

/// Real models that are not in the repository: in the folder that `COREML_QUANT_MODELS` names, or beside the repository.
fn real_model(name: &str) -> Option<Model> {
    let folder = std::env::var_os("COREML_QUANT_MODELS").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models");
    let path = folder.unwrap_or(beside).join(name);
    if path.exists() {
        return Some(Model::open(path).unwrap());
    }
    eprintln!("{} is not there: nothing to check", path.display());
    None
}

/// A small picture: values from 0 to 255.
fn image() -> Tensor {
    let mut image = Tensor::noise(&[1, 3, 64, 64], 1);
    image.values.iter_mut().for_each(|value| *value = (*value + 1.0) * 127.5);
    image
}

/// Networks with a batchnorm behind almost every convolution: all of them fold, and the network computes the same.
#[test]
fn real_models_fold() {
    for (name, folds) in [
        ("edvardHua__PoseEstimationForMobile__hourglass.mlmodel", 65),
        ("edvardHua__PoseEstimationForMobile__model.mlmodel", 93),
    ] {
        let Some(original) = real_model(name) else { continue };
        let result = fold(&original).unwrap();
        assert_eq!((result.report.folds.len(), result.report.not_folded.len()), (folds, 0));
        assert_same(&original, &result.model, &BTreeMap::from([("image__0".to_owned(), image())]));
    }
    let Some(gestures) = real_model("kodecocodes__mlt-materials__GestureClassifier.mlmodel") else { return };
    let report = fold(&gestures).unwrap().report;
    assert_eq!((report.folds.len(), report.not_folded.len()), (1, 0));
    assert_eq!((&report.folds[0].layer[..], &report.folds[0].into[..]), ("bn_layer", "dense_layer"));
}

/// What folding gains on a real model: fewer bytes, and an output closer to the original's.
#[test]
fn folding_gains_bytes_and_precision() {
    let Some(original) = real_model("edvardHua__PoseEstimationForMobile__hourglass.mlmodel") else { return };
    let inputs = BTreeMap::from([("image__0".to_owned(), image())]);
    let exact = evaluate(&original, &inputs).outputs;
    for (config, name) in [
        (QuantConfig::linear(8).unwrap(), "linear 8"),
        (QuantConfig::linear(4).unwrap(), "linear 4"),
        (QuantConfig::kmeans_lut(8).unwrap(), "kmeans_lut 8"),
        (QuantConfig::kmeans_lut(4).unwrap(), "kmeans_lut 4"),
    ] {
        let [folded, unfolded] = [true, false].map(|fold| {
            let quantized = quantize_weights(&original, &config.clone().with_fold(fold)).unwrap().model;
            let bytes = quantized.to_bytes().len();
            let values = quantize_weights(&quantized, &QuantConfig::dequantize()).unwrap().model;
            let outputs = evaluate(&values, &inputs).outputs;
            let (mut error, mut signal) = (0.0, 0.0);
            for (name, exact) in &exact {
                for (found, exact) in outputs[name].values.iter().zip(&exact.values) {
                    error += (found - exact).powi(2);
                    signal += exact.powi(2);
                }
            }
            (bytes, (error / signal).sqrt())
        });
        println!(
            "{name}: {} bytes folded, {} not; relative error {:.4} folded, {:.4} not",
            folded.0, unfolded.0, folded.1, unfolded.1
        );
        assert!(folded.0 < unfolded.0, "{name}");
    }
}

//! Folding against coremltools 7.2, and on real models.

mod common;
mod evaluate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::{fixture, models_in};
use coreml_quant::{Biases, Model, QuantConfig, fold, quantize_weights};
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

/// A real model that is not in the repository: from the folder that `COREML_QUANT_MODELS` names, or beside the repository.
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

/// The 100 test images of the digits model in one batch, and what they show.
fn digits() -> (BTreeMap<String, Tensor>, Vec<usize>) {
    let samples = std::fs::read_to_string(fixture("digits/samples.csv")).unwrap();
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for line in samples.lines().skip(1) {
        let mut numbers = line.split(',').map(|number| number.parse::<f64>().unwrap());
        labels.push(numbers.next().unwrap() as usize);
        pixels.extend(numbers);
    }
    (BTreeMap::from([("image".to_owned(), Tensor::new(&[labels.len(), 1, 8, 8], pixels))]), labels)
}

/// What folding gains on a trained network: fewer bytes in every mode, and where there are few bits for vectors too also
/// precision, since a batchnorm's four lose more in two bits than one bias does.
#[test]
fn folding_gains_bytes_and_precision() {
    let original = Model::open(fixture("digits/digits.mlmodel")).unwrap();
    let (images, labels) = digits();
    assert_same(&original, &fold(&original).unwrap().model, &images);
    let probabilities = |model: &Model| evaluate(model, &images).outputs.remove("probabilities").unwrap().values;
    let correct = |probabilities: &[f64]| {
        let is_right = |(probabilities, &label): (&[f64], &usize)| {
            probabilities.iter().all(|&probability| probability <= probabilities[label])
        };
        probabilities.chunks_exact(10).zip(&labels).filter(|pair| is_right(*pair)).count()
    };
    let exact = probabilities(&original);
    assert_eq!(correct(&exact), 99);
    for (mode, nbits, bytes, bytes_unfolded) in [
        ("linear", 8, 40_116, 40_510),
        ("linear", 4, 20_974, 21_296),
        ("linear", 2, 11_399, 11_684),
        ("kmeans_lut", 8, 42_910, 43_616),
        ("kmeans_lut", 4, 20_393, 20_982),
        ("kmeans_lut", 2, 10_492, 10_812),
    ] {
        let config = QuantConfig::from_mode(mode.parse().unwrap(), Some(nbits)).unwrap();
        let config = config.with_biases(Biases::AsWeights);
        let [folded, unfolded] = [true, false].map(|fold| {
            let quantized = quantize_weights(&original, &config.clone().with_fold(fold)).unwrap().model;
            let values = quantize_weights(&quantized, &QuantConfig::dequantize()).unwrap().model;
            let found = probabilities(&values);
            let error = found.iter().zip(&exact).map(|(found, exact)| (found - exact).powi(2)).sum::<f64>();
            (quantized.to_bytes().len(), (error / exact.len() as f64).sqrt(), correct(&found))
        });
        assert_eq!((folded.0, unfolded.0), (bytes, bytes_unfolded), "{mode} {nbits}");
        match nbits {
            2 => assert!(folded.1 < unfolded.1 && folded.2 > unfolded.2, "{mode} 2: {folded:?}, {unfolded:?}"),
            _ => assert!(folded.1 < 0.02 && folded.2 == 99, "{mode} {nbits}: {folded:?}, {unfolded:?}"),
        }
    }
}

#[test]
fn folding_shrinks_a_real_model() {
    let Some(original) = real_model("edvardHua__PoseEstimationForMobile__hourglass.mlmodel") else { return };
    for (mode, nbits, bytes, bytes_unfolded) in [
        ("linear", 8, 681_916, 729_770),
        ("linear", 4, 474_004, 511_019),
        ("kmeans_lut", 8, 693_334, 801_605),
        ("kmeans_lut", 4, 375_170, 422_079),
    ] {
        let config = QuantConfig::from_mode(mode.parse().unwrap(), Some(nbits)).unwrap();
        let config = config.with_biases(Biases::AsWeights);
        let [folded, unfolded] = [true, false]
            .map(|fold| quantize_weights(&original, &config.clone().with_fold(fold)).unwrap().model.to_bytes().len());
        assert_eq!((folded, unfolded), (bytes, bytes_unfolded), "{mode} {nbits}");
    }
}

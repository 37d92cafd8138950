//! Models compared by their outputs on samples, what each weight can bear, and the search for a model that is good enough.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::digits;
use coreml_quant::evaluate::{
    CompareOptions, EvaluateError, Goal, Sample, Samples, SearchOptions, SensitivityOptions, compare_outputs, search,
    sensitivity,
};
use coreml_quant::predict::Features;
use coreml_quant::proto::feature_type::Type as Feature;
use coreml_quant::proto::image_feature_type::ColorSpace;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{self, FeatureDescription, FeatureType, ImageFeatureType, ModelDescription};
use coreml_quant::{Method, Model, Nbits, QuantConfig, fold, quantize_weights};
use ndarray::{Array3, ArrayD};

/// The held-out digits, with what they are.
fn held_out() -> Samples {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/digits");
    let text = fs::read_to_string(folder.join("samples.csv")).unwrap();
    let sample = |(index, line): (usize, &str)| {
        let (label, pixels) = line.split_once(',').unwrap();
        let pixels: Vec<f32> = pixels.split(',').map(|pixel| pixel.parse().unwrap()).collect();
        let image = Array3::from_shape_vec((1, 8, 8), pixels).unwrap();
        Sample::new(format!("digit {index}"), Features::new().with("image", image)).with_label(label)
    };
    text.lines().skip(1).enumerate().map(sample).collect()
}

fn quantized(config: &QuantConfig) -> Model {
    quantize_weights(&digits(), config).unwrap().model
}

#[test]
fn accuracies_of_the_digits_model() {
    let samples = held_out();
    let right = |model: &Model| {
        let report = compare_outputs(&digits(), model, &samples, &CompareOptions::new()).unwrap();
        let digit = report.outputs.iter().find(|output| output.name == "digit").unwrap();
        let classes = digit.classes.as_ref().unwrap();
        assert_eq!(classes.original_accuracy.unwrap().count, 99);
        let (agreement, accuracy) = (classes.agreement, classes.accuracy.unwrap());
        assert!(accuracy.low < accuracy.share && accuracy.share <= accuracy.high);
        // What changes is at least what goes wrong.
        assert!(100 - agreement.count >= 99_u64.abs_diff(accuracy.count));
        assert_eq!(report.accuracy().unwrap().count, accuracy.count);
        (accuracy.count, report.snr_db())
    };
    let (same, snr) = right(&digits());
    assert_eq!((same, snr), (99, f64::INFINITY));
    let (four, snr_4) = right(&quantized(&QuantConfig::kmeans_lut(4).unwrap()));
    let (two, snr_2) = right(&quantized(&QuantConfig::linear(2).unwrap()));
    assert!(four >= 95 && snr_4 > snr_2, "{four} {snr_4} {snr_2}");
    assert!(two < 95, "{two}");
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let other = quantized(&QuantConfig::kmeans_lut(2).unwrap());
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let options = CompareOptions::new().with_per_layer(true);
        pool.install(|| {
            let report = compare_outputs(&digits(), &other, &held_out(), &options).unwrap();
            let samples = Samples::synthetic(&digits(), 6, 1).unwrap();
            (report, sensitivity(&digits(), &samples, &SensitivityOptions::new()).unwrap())
        })
    };
    let (report, sensitivity) = run(1);
    assert_eq!((report, sensitivity), run(3));
}

#[test]
fn a_damaged_layer_comes_first() {
    let model = fold(&digits()).unwrap().model;
    for damaged in [0, 1] {
        let mut proto = model.clone().into_proto();
        let Some(Type::NeuralNetworkClassifier(network)) = &mut proto.r#type else { panic!("another model") };
        let layers = network.layers.iter_mut().filter(|layer| matches!(layer.layer, Some(Layer::Convolution(_))));
        let layer = layers.collect::<Vec<_>>().swap_remove(damaged);
        let name = layer.name.clone();
        let Some(Layer::Convolution(params)) = &mut layer.layer else { unreachable!() };
        let bias = params.bias.as_mut().unwrap();
        assert!(!bias.float_value.is_empty());
        bias.float_value = bias.float_value.iter().map(|bias| bias + 4.0).collect::<Vec<f32>>().into();
        let other = quantize_weights(&Model::from_proto(proto), &QuantConfig::linear(8).unwrap()).unwrap().model;
        let report = compare_outputs(
            &digits(),
            &other,
            &Samples::synthetic(&digits(), 4, 0).unwrap(),
            &CompareOptions::new().with_per_layer(true),
        )
        .unwrap();
        assert_eq!(&*report.layers[0].layer, name);
        let (first, second) = (report.layers[0].own.unwrap(), report.layers[1].own.unwrap());
        assert!(first.snr_db + 10.0 < second.snr_db, "{} {}", first.snr_db, second.snr_db);
        // Layers without weights add nothing of their own, and pass on what they get.
        let pooling = report.layers.iter().find(|layer| layer.layer_type == "pooling").unwrap();
        assert_eq!(pooling.own.unwrap().snr_db, f64::INFINITY);
        assert!(report.layers.iter().any(|layer| layer.grown.snr_db < 40.0));
    }
}

#[test]
fn folding_changes_rounding_alone() {
    let folded = fold(&digits()).unwrap().model;
    assert!(folded.layers().len() < digits().layers().len());
    let options = CompareOptions::new().with_per_layer(true);
    let report = compare_outputs(&digits(), &folded, &held_out(), &options).unwrap();
    assert!(report.snr_db() > 100.0, "{report}");
    assert_eq!(report.agreement().unwrap().share, 1.0);
    // Each folded layer is compared with the last of those it stands for.
    assert_eq!((report.layers.len(), report.unmatched_layers), (folded.layers().len(), 0));
}

#[test]
fn weights_that_matter_are_told_from_those_that_do_not() {
    let samples = Samples::synthetic(&digits(), 8, 3).unwrap();
    let methods = [2, 4, 8].map(|nbits| Method::KmeansLut { nbits: Nbits::new(nbits).unwrap() });
    let options = SensitivityOptions::new().with_methods(methods);
    let found = sensitivity(&digits(), &samples, &options).unwrap();
    let few = sensitivity(&digits(), &samples, &options.clone().with_memory(1)).unwrap();
    assert_eq!(few.weights.len(), found.weights.len());
    for (few, found) in few.weights.iter().zip(&found.weights) {
        let (few, found) = (few.noise_per_error().unwrap(), found.noise_per_error().unwrap());
        assert!((few / found - 1.0).abs() < 1e-9, "one sample at a time makes {few} of {found}");
    }
    // The whole damage is what evaluating the model with one weight quantized says.
    for weight in &found.weights {
        let (layer, field) = (weight.layer.clone(), weight.field.clone());
        let config = QuantConfig::kmeans_lut(2)
            .unwrap()
            .with_biases(coreml_quant::Biases::AsWeights)
            .with_selector(move |info: &coreml_quant::WeightInfo<'_>| info.layer_name == layer && info.field == field);
        let folded = fold(&digits()).unwrap().model;
        let other = quantize_weights(&folded, &config.with_fold(false)).unwrap().model;
        let options = CompareOptions::new().with_per_layer(true);
        let report = compare_outputs(&digits(), &other, &samples, &options).unwrap();
        // What goes into the softmax.
        let last = folded.layers()[folded.layers().len() - 2].layer.name.clone();
        let logits = report.layers.iter().find(|layer| *layer.layer == *last).unwrap();
        let snr = -10.0 * weight.damages[0].output_noise.log10();
        assert!((logits.grown.snr_db - snr).abs() < 0.5, "{}: {snr}, {}", weight.layer, logits.grown.snr_db);
    }
}

#[test]
fn the_search_ends_smaller_than_uniform_modes() {
    let options = SearchOptions::new().with_halvings(2);
    let found = search(&digits(), &held_out(), Goal::Accuracy(0.99), &options).unwrap();
    let report = &found.report;
    let chosen = &report.candidates[report.chosen];
    assert!(chosen.reaches && chosen.planned, "{report}");
    let uniform = report.candidates.iter().filter(|candidate| !candidate.planned && candidate.reaches);
    assert!(uniform.map(|candidate| candidate.bytes).min().unwrap() > chosen.bytes, "{report}");
    assert_eq!(found.model.to_bytes().len() as u64, chosen.bytes);
    let again = compare_outputs(&digits(), &found.model, &held_out(), &CompareOptions::new()).unwrap();
    assert_eq!(again.accuracy(), chosen.accuracy);

    let samples = Samples::synthetic(&digits(), 8, 0).unwrap();
    let within = search(&digits(), &samples, Goal::MaxBytes(30_000), &options).unwrap();
    assert!(within.model.to_bytes().len() <= 30_000);
    let impossible = search(&digits(), &samples, Goal::OutputSnr(1e4), &options);
    assert!(matches!(impossible, Err(EvaluateError::Unreachable { .. })));
    assert!(matches!(
        search(&digits(), &samples, Goal::Accuracy(0.5), &options),
        Err(EvaluateError::Unmeasurable { .. })
    ));
}

#[test]
fn jobs_can_be_stopped() {
    let samples = Samples::synthetic(&digits(), 4, 0).unwrap();
    let options = CompareOptions::new().with_progress(|_| std::ops::ControlFlow::Break(()));
    let stopped = compare_outputs(&digits(), &digits(), &samples, &options);
    assert!(matches!(stopped, Err(EvaluateError::Stopped)));
    let options = SensitivityOptions::new().with_progress(|_| std::ops::ControlFlow::Break(()));
    assert!(matches!(sensitivity(&digits(), &samples, &options), Err(EvaluateError::Stopped)));
}

fn temporary(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

#[test]
fn lines_of_json() {
    let row = "[0, 1, 2, 3, 4, 5, 6, 7]";
    let image = format!("[[{}]]", [row; 8].join(", "));
    let text = format!(
        "{{\"image\": {image}, \"label\": 3}}\n\n{{\"image\": {image}, \"name\": \"b\", \"x\": 1}}\n{{\"image\": [[1], [2, 3]]}}\n"
    );
    let (_folder, path) = temporary("samples.jsonl", text.as_bytes());
    let samples = Samples::json_lines(&digits(), &path).unwrap();
    assert_eq!(samples.len(), 3);
    let first = samples.get(0).unwrap().unwrap();
    assert_eq!((first.name.as_str(), first.label.as_deref()), ("line 1", Some("3")));
    let array = first.features.array("image").unwrap();
    assert_eq!((array.shape(), array[[0, 7, 5]]), (&[1, 8, 8][..], 5.0));
    for (index, words) in [(1, ["line 3", "\"x\" is no input"]), (2, ["line 4", "2 items beside one of 1"])] {
        let error = samples.get(index).unwrap().unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn files_of_arrays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.npz");
    let images = ArrayD::from_shape_fn(vec![3, 1, 8, 8], |index| index[0] as f64 * 0.1 + index[3] as f64);
    let mut file = ndarray_npy::NpzWriter::new(fs::File::create(&path).unwrap());
    file.add_array("image", &images).unwrap();
    file.add_array("labels", &ndarray::array![7_i64, 8, 9]).unwrap();
    file.finish().unwrap();
    let samples = Samples::numpy(&digits(), &path).unwrap();
    let last = samples.get(2).unwrap().unwrap();
    assert_eq!((samples.len(), last.label.as_deref()), (3, Some("9")));
    assert!((last.features.array("image").unwrap()[[0, 1, 4]] - 4.2).abs() < 1e-6);
    assert!(samples.get(3).is_none());

    let path = folder.path().join("images.npy");
    ndarray_npy::write_npy(&path, &images.mapv(|value| value as u8)).unwrap();
    let samples = Samples::numpy(&digits(), &path).unwrap().with_labels(["1", "2", "3"]).unwrap();
    assert_eq!(samples.get(1).unwrap().unwrap().label.as_deref(), Some("2"));
    let labels = samples.with_labels(["1"]);
    assert!(matches!(labels, Err(EvaluateError::Labels { labels: 1, samples: 3 })));
}

/// A model that takes an RGB image of some size.
fn image_model(size: i64) -> Model {
    let image =
        ImageFeatureType { width: size, height: size, color_space: ColorSpace::Rgb as i32, ..Default::default() };
    let input = FeatureDescription {
        name: "x".to_owned(),
        r#type: Some(FeatureType { r#type: Some(Feature::ImageType(image)), is_optional: false }),
        ..Default::default()
    };
    Model::from_proto(proto::Model {
        description: Some(ModelDescription { input: vec![input], ..Default::default() }),
        ..Default::default()
    })
}

#[test]
fn folders_of_images() {
    let folder = tempfile::tempdir().unwrap();
    for (name, width, height) in [("cat/a.png", 8, 8), ("dog/b.png", 20, 10)] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Red grows to the right.
        let image = image::RgbImage::from_fn(width, height, |x, _| image::Rgb([(x * 255 / (width - 1)) as u8, 7, 9]));
        image.save(path).unwrap();
    }
    fs::write(folder.path().join("cat/notes.txt"), "no image").unwrap();
    let model = image_model(8);
    let crop = Samples::images(&model, folder.path(), coreml_quant::evaluate::Fit::Crop).unwrap();
    let names: Vec<_> =
        crop.iter().map(|sample| sample.unwrap()).map(|sample| (sample.name, sample.label.unwrap())).collect();
    assert_eq!(names, [("cat/a.png".to_owned(), "cat".to_owned()), ("dog/b.png".to_owned(), "dog".to_owned())]);
    let pixels = |samples: &Samples| match samples.get(1).unwrap().unwrap().features.get("x") {
        Some(coreml_quant::predict::Value::Image(image)) => image.clone(),
        other => panic!("{other:?}"),
    };
    let cropped = pixels(&crop);
    assert_eq!((cropped.width(), cropped.height()), (8, 8));
    // The middle half of the picture.
    assert!((60..90).contains(&cropped.pixels()[0]), "{}", cropped.pixels()[0]);
    let stretched = pixels(&Samples::images(&model, folder.path(), coreml_quant::evaluate::Fit::Stretch).unwrap());
    assert!(stretched.pixels()[0] < 30);
    assert!(matches!(
        Samples::images(&digits(), folder.path(), coreml_quant::evaluate::Fit::Crop),
        Err(EvaluateError::Inputs { .. })
    ));
}

#[test]
fn drawn_samples_are_the_same_for_a_seed() {
    let draw = |seed| Samples::synthetic(&digits(), 3, seed).unwrap();
    let get = |samples: &Samples, index| samples.get(index).unwrap().unwrap();
    assert_eq!(get(&draw(1), 2), get(&draw(1), 2));
    assert_ne!(get(&draw(1), 2).features, get(&draw(2), 2).features);
    assert_ne!(get(&draw(1), 1).features, get(&draw(1), 2).features);
    assert!(draw(1).is_synthetic());
}

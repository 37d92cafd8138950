//! The error in the report, against what the dequantized model holds.

mod common;

use common::{digits, fixture_models};
use coreml_quant::proto::WeightParams;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::{Mode, Model, Outcome, QuantConfig, Reason, Report, WeightInfo, compare, quantize_weights};

/// The float32 values of every weight, in the order of the report.
fn values(model: &Model) -> Vec<Vec<f32>> {
    let config = QuantConfig::dequantize();
    let decoded = quantize_weights(model, &config).unwrap().model;
    let layers = decoded.layers();
    let weights = layers.iter().flat_map(|layer| &layer.weights);
    weights.map(|weight| weight.params.unwrap().float_value.iter().collect()).collect()
}

/// Sums are computed in float32.
fn close(found: f64, expected: f64) -> bool {
    found == expected || (found - expected).abs() <= 1e-5 * expected.abs()
}

/// The measured errors must be those of the decoded values.
fn check(original: &Model, quantized: &Model, report: &Report) {
    let (original, quantized) = (values(original), values(quantized));
    let (mut cost, mut count) = (0.0, 0.0);
    for ((original, quantized), weight) in original.iter().zip(&quantized).zip(&report.weights) {
        let pairs = || original.iter().zip(quantized).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let squared_error: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
        let squared: f64 = pairs().map(|(a, _)| a * a).sum();
        let relative = if squared_error == 0.0 { 0.0 } else { squared_error / squared };
        let max_error = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let measured = weight.distortion.unwrap();
        assert!(close(measured.relative_error(), relative), "{}: {measured:?}, {relative}", weight.place);
        assert!(close(measured.max_error(), max_error), "{}: {measured:?}, {max_error}", weight.place);
        cost += original.len() as f64 * relative;
        count += original.len() as f64;
    }
    let sqnr = if cost == 0.0 { f64::INFINITY } else { -10.0 * (cost / count).log10() };
    assert!(close(report.sqnr_db().unwrap(), sqnr), "{:?}, {sqnr}", report.sqnr_db());
}

#[test]
fn errors_are_those_of_the_decoded_weights() {
    for path in fixture_models() {
        let model = Model::open(&path).unwrap();
        for &mode in Mode::all().iter().filter(|&&mode| mode != Mode::CustomLut) {
            let config = QuantConfig::from_mode(mode, (!mode.nbits().is_empty()).then_some(3)).unwrap();
            let Ok(quantized) = quantize_weights(&model, &config.with_fold(false).with_requantize(true)) else {
                continue;
            };
            check(&model, &quantized.model, &quantized.report);
            // And the other way to ask for it.
            let compared = compare(&model, &quantized.model).unwrap();
            for (compared, reported) in compared.weights.iter().zip(&quantized.report.weights) {
                let [first, second] = [compared, reported].map(|weight| weight.distortion.unwrap());
                assert!(close(first.relative_error(), second.relative_error()), "{mode}: {}", reported.place);
                assert!(close(first.max_error(), second.max_error()), "{mode}: {}", reported.place);
                assert_eq!((compared.before, compared.after), (reported.before, reported.after));
            }
        }
    }
}

#[test]
fn measuring_changes_no_byte_and_can_be_left_out() {
    let config = QuantConfig::linear(4).unwrap();
    let measured = quantize_weights(&digits(), &config).unwrap();
    let plain = quantize_weights(&digits(), &config.with_measure(false)).unwrap();
    assert_eq!(measured.model.to_bytes(), plain.model.to_bytes());
    assert!(measured.report.sqnr_db().is_some());
    assert_eq!(plain.report.sqnr_db(), None);
    assert!(plain.report.weights.iter().all(|weight| weight.distortion.is_none()));
    assert!(plain.report.worst_layers().is_empty());
    let worst = measured.report.worst_layers();
    assert!(worst.is_sorted_by(|a, b| a.sqnr_db <= b.sqnr_db));
    assert!(worst.len() > 3 && worst[0].sqnr_db < 20.0, "{worst:?}");
}

#[test]
fn a_model_compared_with_itself_is_identical() {
    let report = compare(&digits(), &digits()).unwrap();
    assert_eq!(report.sqnr_db(), Some(f64::INFINITY));
    assert!(report.weights.iter().all(|weight| weight.outcome == Outcome::Kept(Reason::Identical)));
}

#[test]
fn models_of_other_networks_are_refused() {
    let mut other = digits();
    match other.proto_mut().r#type.as_mut().unwrap() {
        Type::NeuralNetworkClassifier(network) => network.layers.truncate(3),
        other => panic!("{other:?}"),
    }
    let refused = compare(&digits(), &other);
    assert!(matches!(refused, Err(coreml_quant::Error::DifferentNetworks { .. })), "{refused:?}");
}

/// The report of a quantization and the comparison of its input with its output are the same, folded or not.
#[test]
fn what_was_folded_is_folded_before_it_is_compared() {
    let model = digits();
    let only_one =
        QuantConfig::linear(8).unwrap().with_selector(|weight: &WeightInfo<'_>| weight.layer_name != "batchnorm_2");
    for config in [QuantConfig::linear(8).unwrap(), QuantConfig::float16().with_fold(true), only_one] {
        let quantized = quantize_weights(&model, &config).unwrap();
        assert!(!quantized.report.folds.folds.is_empty());
        for (one, other, swapped) in [(&model, &quantized.model, false), (&quantized.model, &model, true)] {
            let compared = compare(one, other).unwrap();
            assert_eq!(compared.folds.folds, quantized.report.folds.folds);
            assert_eq!(compared.weights.len(), quantized.report.weights.len());
            for (compared, reported) in compared.weights.iter().zip(&quantized.report.weights) {
                let (before, after) =
                    if swapped { (reported.after, reported.before) } else { (reported.before, reported.after) };
                assert_eq!((&compared.place, compared.before, compared.after), (&reported.place, before, after));
                let errors = [compared, reported].map(|weight| weight.distortion.unwrap().max_error());
                assert!(close(errors[0], errors[1]), "{}: {errors:?}", reported.place);
            }
        }
    }
}

#[test]
fn values_that_are_no_numbers_are_said_to_be_that() {
    let with = |value: f32| {
        let mut model = digits();
        let Type::NeuralNetworkClassifier(network) = model.proto_mut().r#type.as_mut().unwrap() else { panic!() };
        let weights = network.layers.iter_mut().find_map(|layer| match layer.layer.as_mut() {
            Some(Layer::Convolution(params)) => params.weights.as_mut(),
            _ => None,
        });
        let weights = weights.unwrap();
        let mut values: Vec<f32> = weights.float_value.iter().collect();
        values[3] = value;
        *weights = WeightParams::from_floats(&values);
        model
    };
    for (one, other) in [(f32::NAN, 1.0), (1.0, f32::NAN), (f32::INFINITY, 1.0), (f32::NAN, f32::INFINITY)] {
        let report = compare(&with(one), &with(other)).unwrap();
        let undefined = report.weights.iter().filter(|weight| !weight.distortion.unwrap().is_defined());
        assert_eq!(undefined.count(), 1, "{one} {other}");
        let text = report.to_string();
        assert!(!text.contains("NaN dB"), "{text}");
        assert!(text.ends_with("SQNR undefined: a weight has values that are NaN or infinite"), "{text}");
    }
    // Where nothing changed there is nothing to measure.
    assert_eq!(compare(&with(f32::NAN), &with(f32::NAN)).unwrap().sqnr_db(), Some(f64::INFINITY));
}

//! The error in the report, against what the dequantized model holds.

mod common;

use common::{digits, fixture_models};
use coreml_quant::{Mode, Model, Outcome, QuantConfig, Reason, Report, compare, quantize_weights};

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
    let folded = quantize_weights(&digits(), &QuantConfig::linear(8).unwrap()).unwrap().model;
    let refused = compare(&digits(), &folded);
    assert!(matches!(refused, Err(coreml_quant::Error::DifferentNetworks { .. })), "{refused:?}");
}

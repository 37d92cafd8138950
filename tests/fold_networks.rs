//! Folding changes nothing but rounding, on real networks: the digits model, and two others in the folder that
//! `COREML_QUANT_MODELS` names, or in `../shared/models` beside the checkout.

mod common;
#[allow(dead_code, reason = "only the way to the folder is of use here")]
mod recorded;

use common::digits;
use coreml_quant::evaluate::{CompareOptions, Samples, compare_outputs};
use coreml_quant::{Model, fold};

/// Of the output's largest value.
const TOLERANCE: f64 = 1e-4;

fn assert_unchanged(name: &str, model: &Model) {
    let folded = fold(model).unwrap();
    assert!(!folded.report.folds.is_empty(), "{name}: nothing is folded");
    let samples = Samples::synthetic(model, 2, 1).unwrap();
    let report = compare_outputs(model, &folded.model, &samples, &CompareOptions::new()).unwrap();
    for output in &report.outputs {
        let Some(difference) = output.difference else { continue };
        assert!(difference.values > 0 && difference.non_finite == 0, "{name} {}: {difference}", output.name);
        assert!(difference.max_abs <= TOLERANCE * difference.peak, "{name} {}: {difference}", output.name);
    }
}

#[test]
fn real_networks_compute_the_same_folded() {
    assert_unchanged("digits", &digits());
    let Some(folder) = recorded::folder("COREML_QUANT_MODELS", "models") else { return };
    for name in
        ["edvardHua__PoseEstimationForMobile__model.mlmodel", "edvardHua__PoseEstimationForMobile__hourglass.mlmodel"]
    {
        let path = folder.join(name);
        if path.exists() {
            assert_unchanged(name, &Model::open(path).unwrap());
        }
    }
}

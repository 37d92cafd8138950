//! Byte-exact agreement with coremltools 9.0, on its own output for every kind of weight: see
//! `tests/fixtures/golden/README.md`.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{differences, fixture, models_in};
use coreml_quant::{Biases, Mode, Model, QuantConfig, check, quantize_weights};

/// Where we differ because coremltools is wrong: float16 does not hold the limit that a loop's condition compares with,
/// and with another limit it may be another number of rounds.
const BETTER: [&str; 1] = ["control_flow float16 16: model/repeat/conditionNetwork/limit data: Ok(Float32)"];

#[test]
fn equals_coremltools() {
    let index = fs::read_to_string(fixture("golden/index.tsv")).unwrap();
    let mut failures = Vec::new();
    let mut compared = BTreeSet::new();
    for row in index.lines().skip(1) {
        let [model, mode, nbits, expected, ..] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("a row of five columns is expected: {row}");
        };
        let mode: Mode = mode.parse().unwrap();
        let config = QuantConfig::from_mode(mode, nbits.parse().ok()).unwrap().with_growth(true).with_fold(false);
        // coremltools leaves what takes no codes in float32.
        let config = config.with_float16_instead(false).with_biases(Biases::AsWeights);
        let source = Model::open(fixture(&format!("golden/models/{model}.mlmodel"))).unwrap();
        let golden = Model::open(fixture(&format!("golden/{expected}"))).unwrap();
        match quantize_weights(&source, &config) {
            Ok(quantized) => failures.extend(
                differences(&quantized.model, &golden)
                    .into_iter()
                    .chain(check(&quantized.model).iter().map(ToString::to_string))
                    .map(|found| format!("{model} {mode} {nbits}: {found}")),
            ),
            Err(error) => failures.push(format!("{model} {mode} {nbits}: {error}")),
        }
        compared.insert(fixture(&format!("golden/{expected}")));
    }
    for better in BETTER {
        let known = failures.iter().position(|failure| failure.starts_with(better));
        failures.remove(known.unwrap_or_else(|| panic!("no longer a difference: {better}")));
    }
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
    // A golden file that nothing compares is a mistake in the index.
    let present: BTreeSet<_> = models_in(&fixture("golden/expected")).into_iter().collect();
    assert_eq!(present, compared);
}

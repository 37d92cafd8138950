//! Reading and writing `.mlmodel` files.

mod common;

use std::fs;

use common::{digits, fixture, fixture_models, real_models};
use coreml_quant::{Mode, Model, QuantConfig, SaveOptions, check, quantize_to_file, quantize_weights};

/// Decoding and encoding gives the same bytes, except for the order of map entries, which protobuf leaves open and we
/// sort: then the lengths are equal and our own output is stable.
#[test]
fn decoding_and_encoding_loses_nothing() {
    let mut identical = 0;
    let models: Vec<_> = fixture_models().into_iter().chain(real_models()).collect();
    for path in &models {
        let bytes = fs::read(path).unwrap();
        let model = Model::from_bytes(bytes.clone()).unwrap();
        let encoded = model.to_bytes();
        assert_eq!(encoded.len(), bytes.len(), "{}", path.display());
        let again = Model::from_bytes(encoded.clone()).unwrap();
        assert_eq!(again.to_bytes(), encoded, "{}", path.display());
        assert_eq!(again, model, "{}", path.display());
        identical += usize::from(encoded == bytes);
    }
    assert!(identical * 2 > models.len(), "{identical} of {} are identical", models.len());
}

#[test]
fn saving_writes_the_encoded_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved.mlmodel");
    for source in fixture_models().into_iter().chain(real_models()) {
        let model = Model::open(&source).unwrap();
        model.save(&path).unwrap();
        assert!(fs::read(&path).unwrap() == model.to_bytes(), "{}", source.display());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the model is left in the folder");
}

/// The two ways to a quantized file give the same bytes and the same report, in every mode.
#[test]
fn quantizing_into_a_file_equals_quantizing_and_saving() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quantized.mlmodel");
    for source in fixture_models() {
        let model = Model::open(&source).unwrap();
        for &mode in Mode::all() {
            let nbits = mode.nbits().contains(&3).then_some(3);
            let Ok(config) = QuantConfig::from_mode(mode, nbits) else { continue };
            for config in [config.clone(), config.with_growth(true).with_requantize(true)] {
                let in_memory = quantize_weights(&model, &config).unwrap();
                let findings = check(&in_memory.model);
                assert!(findings.is_empty(), "{} {mode}: {findings:?}", source.display());
                let report = quantize_to_file(&model, &config, &path, &SaveOptions::default()).unwrap();
                assert_eq!(report, in_memory.report, "{} {mode}", source.display());
                assert!(fs::read(&path).unwrap() == in_memory.model.to_bytes(), "{} {mode}", source.display());
            }
        }
    }
}

#[test]
fn the_original_is_untouched() {
    let model = digits();
    let before = model.to_bytes();
    quantize_weights(&model, &QuantConfig::linear(4).unwrap()).unwrap();
    assert!(model.to_bytes() == before);
}

#[test]
fn sync_is_an_option() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("synced.mlmodel");
    let model = Model::open(fixture("digits/digits.mlmodel")).unwrap();
    model.save_with(&path, &SaveOptions::default().sync(true)).unwrap();
    assert!(fs::read(&path).unwrap() == model.to_bytes());
}

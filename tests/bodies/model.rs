//! What holds for any bytes given as a model. Bodies for property tests and fuzz targets: include with `#[path]`.
#![allow(dead_code, reason = "each user takes some of it")]

use coreml_quant::{DecodeOptions, Mode, Model, QuantConfig, WeightInfo, check, compare, quantize_weights};

/// Decodes `data`. Whatever is accepted is written and read again without a change. Returns whether it is accepted.
///
/// # Panics
///
/// If that does not hold.
pub fn decodes(data: &[u8]) -> bool {
    let lenient = DecodeOptions::new().allow_unknown_fields(true).allow_newer_versions(true);
    let strict = Model::from_bytes(data.to_vec());
    let Ok(model) = Model::from_bytes_with(data.to_vec(), &lenient) else {
        assert!(strict.is_err(), "the strict options accept more");
        return false;
    };
    let encoded = model.to_bytes();
    // NaNs are not equal to themselves, so bytes are compared.
    let again = Model::from_bytes_with(encoded.clone(), &lenient).expect("our own bytes");
    assert_eq!(again.to_bytes(), encoded);
    let known = DecodeOptions::new().allow_newer_versions(true);
    assert!(Model::from_bytes_with(encoded, &known).is_ok(), "what is left is known");
    assert_eq!(again.layers().len(), model.layers().len());
    strict.is_ok()
}

/// Quantizes `data` in every mode. Returns how many succeed.
///
/// # Panics
///
/// If a result is not as valid as the original.
pub fn quantizes(data: &[u8]) -> usize {
    let Some((&choice, data)) = data.split_first() else { return 0 };
    let Ok(model) = Model::from_bytes(data.to_vec()) else { return 0 };
    configs(choice).iter().filter(|config| quantizes_with(&model, config)).count()
}

/// Every mode, with bits and options that a byte chooses.
pub fn configs(choice: u8) -> Vec<QuantConfig> {
    let (nbits, options) = (u32::from(choice & 7) + 1, choice >> 3);
    Mode::all()
        .iter()
        .filter_map(|&mode| {
            let nbits = (!mode.nbits().is_empty()).then_some(nbits.max(*mode.nbits().start()));
            QuantConfig::from_mode(mode, nbits).ok()
        })
        .map(|config| {
            let all = options & 16 == 0;
            config
                .with_growth(options & 1 == 1)
                .with_requantize(options & 2 == 2)
                .with_fold(options & 4 == 4)
                .with_mean_image_as_bias(options & 8 == 8)
                .with_selector(move |weight: &WeightInfo<'_>| all || weight.layer_name.len().is_multiple_of(2))
        })
        .collect()
}

/// Quantizes a model. Whatever comes out is written and read, and obeys Core ML's rules as far as the original does.
///
/// # Panics
///
/// If that does not hold.
pub fn quantizes_with(model: &Model, config: &QuantConfig) -> bool {
    let Ok(quantized) = quantize_weights(model, config) else { return false };
    let bytes = quantized.model.to_bytes();
    let known = DecodeOptions::new().allow_newer_versions(true);
    let again = Model::from_bytes_with(bytes.clone(), &known).expect("our own bytes");
    assert_eq!(again.to_bytes(), bytes);
    // Not worse than before: rules that the original broke are not mended.
    let (before, after) = (check(model), check(&again));
    if let Ok(report) = compare(model, &again) {
        assert_eq!(report.weights.len(), quantized.report.weights.len(), "{config:?}");
    }
    assert!(after.len() <= before.len(), "{config:?}: {after:?} after {before:?}");
    true
}

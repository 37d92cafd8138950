//! What several tests share.
#![allow(dead_code, reason = "each test uses some of it")]

pub mod kinds;

use std::fs;
use std::path::{Path, PathBuf};

use coreml_quant::{LayerSurvey, Model, WeightSurvey};
use prost::Message;

/// A file or folder under `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// The digits model: a small trained classifier.
pub fn digits() -> Model {
    Model::open(fixture("digits/digits.mlmodel")).unwrap()
}

/// The `.mlmodel` files of a folder, sorted.
pub fn models_in(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "mlmodel"))
        .collect();
    paths.sort();
    paths
}

/// Every model in the repository.
pub fn fixture_models() -> Vec<PathBuf> {
    let mut paths = models_in(&fixture("golden/models"));
    paths.push(fixture("digits/digits.mlmodel"));
    paths
}

/// Real models that are not in the repository: those in the folder that `COREML_QUANT_MODELS` names, if it is set.
pub fn real_models() -> Vec<PathBuf> {
    std::env::var_os("COREML_QUANT_MODELS").map_or(Vec::new(), |folder| models_in(Path::new(&folder)))
}

/// Holds two models of the same network against each other, weight by weight, and everything else by its bytes.
///
/// Returns the differences; the first differing byte of a weight is named. specificationVersions are not compared.
pub fn differences(got: &Model, expected: &Model) -> Vec<String> {
    let (got_layers, expected_layers) = (got.layers(), expected.layers());
    if got_layers.len() != expected_layers.len() {
        return vec![format!("{} layers, {} expected", got_layers.len(), expected_layers.len())];
    }
    let mut found = Vec::new();
    for (got, expected) in got_layers.iter().zip(&expected_layers) {
        let place = format!("{}/{}", got.network, got.layer.name);
        if got.weights.len() != expected.weights.len() {
            found.push(format!("{place}: {} weights, {} expected", got.weights.len(), expected.weights.len()));
            continue;
        }
        let before = found.len();
        for (got, expected) in got.weights.iter().zip(&expected.weights) {
            let bytes = |weight: &WeightSurvey<'_>| {
                let mut params = weight.params.cloned().unwrap_or_default();
                // coremltools leaves an empty message behind when it dequantizes.
                params.quantization = params.quantization.filter(|quantization| *quantization != Default::default());
                params.encode_to_vec()
            };
            let (got_bytes, expected_bytes) = (bytes(got), bytes(expected));
            if got_bytes != expected_bytes {
                let index = got_bytes.iter().zip(&expected_bytes).position(|(a, b)| a != b);
                found.push(format!(
                    "{place} {}: {:?} with {} bytes, {:?} with {} expected, first difference at byte {index:?}",
                    got.field,
                    got.stored,
                    got_bytes.len(),
                    expected.stored,
                    expected_bytes.len(),
                ));
            }
        }
        // The rest of the layer, as what is left of its length without the weights; of its bytes if they are equal.
        let rest = |survey: &LayerSurvey<'_>| {
            let weights = survey.weights.iter().filter_map(|weight| weight.params).map(Message::encoded_len);
            survey.layer.encoded_len() - weights.sum::<usize>()
        };
        let identical = got.weights.iter().zip(&expected.weights).all(|(got, expected)| got.params == expected.params);
        let nested = matches!(got.layer_type, Some("branch" | "loop"));
        let same = if identical { got.layer == expected.layer } else { rest(got) == rest(expected) };
        if found.len() == before && !nested && !same {
            found.push(format!("{place}: something besides the weights differs"));
        }
    }
    found
}

/// A model that is not in the repository: one of those in the folder that `COREML_QUANT_SMALL_MODELS` names, or in
/// `../shared/cases` beside the checkout; `None` if it is in neither.
pub fn shared_case(name: &str) -> Option<Model> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases");
    let path = std::env::var_os("COREML_QUANT_SMALL_MODELS").map_or_else(beside, PathBuf::from).join(name);
    path.exists().then(|| Model::open(&path).unwrap())
}

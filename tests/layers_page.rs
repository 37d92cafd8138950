//! `docs/layers.md` says what the executor says. `COREML_QUANT_WRITE_DOCS=1` writes it anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use coreml_quant::predict::{support, uncertain};

fn page() -> String {
    let layers = support();
    let runs = layers.iter().filter(|layer| layer.runs).count();
    let certain = layers.iter().filter(|layer| layer.runs && layer.uncertain.is_empty()).count();
    let mut page = format!(
        "# What can be run, and what is uncertain\n\n\
         `predict::Predictor` runs neural networks (`neuralNetwork`, `neuralNetworkClassifier`, `neuralNetworkRegressor`) \
         and pipelines.\n\
         This page is made from `predict::support()`; a test holds it to the code.\n\n\
         Of {} layer types, {runs} run by themselves, {certain} of them with nothing uncertain. A `custom` layer needs a \
         `CustomLayer` of its class.\n\
         \"Uncertain\" means that neither the format's documentation nor recorded results of Core ML decide it: what is \
         computed is stated,\nand `Predictor::notes` lists it when a network comes upon it.\n\n\
         ## Models\n\n\
         | runs | needs a stand-in (`Predictor::with_stand_in`) |\n|---|---|\n\
         | networks, pipelines, and in pipelines or alone: scaler, imputer, normalizer, oneHotEncoder, dictVectorizer, \
         featureVectorizer, arrayFeatureExtractor, categoricalMapping, identity, glmClassifier, glmRegressor, \
         treeEnsembleClassifier, treeEnsembleRegressor, nonMaximumSuppression | visionFeaturePrint, \
         audioFeaturePrint, soundAnalysisPreprocessing, k-nearest-neighbours, support vector machines, text and word \
         models, gazetteers, item similarity, linked and custom models; ML Programs |\n\n\
         ## Uncertain for all networks\n\n",
        layers.len()
    );
    for note in uncertain() {
        writeln!(page, "- {note}").unwrap();
    }
    page.push_str("\n## Layers\n\n| layer type | runs | uncertain |\n|---|---|---|\n");
    for layer in layers {
        let notes: Vec<&str> =
            layer.uncertain.iter().map(|note| note.split_once(": ").map_or(*note, |(_, what)| what)).collect();
        let runs = if layer.runs { "yes" } else { "with a `CustomLayer`" };
        writeln!(page, "| {} | {runs} | {} |", layer.layer_type, notes.join("; ")).unwrap();
    }
    page
}

#[test]
fn the_page_says_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/layers.md");
    if std::env::var_os("COREML_QUANT_WRITE_DOCS").is_some() {
        fs::write(&path, page()).unwrap();
    }
    let written = fs::read_to_string(path).unwrap();
    assert!(written == page(), "docs/layers.md is stale: run this test with COREML_QUANT_WRITE_DOCS=1");
}

//! The same input gives the same bytes, whatever the number of threads and however often.

mod common;

use common::{fixture_models, real_models};
use coreml_quant::{Mode, Model, QuantConfig, SaveOptions, quantize_to_file, quantize_weights};

#[test]
fn the_number_of_threads_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.mlmodel");
    let pools =
        [1, 2, 8, 8].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    let mut compared = 0;
    for source in fixture_models().into_iter().chain(real_models()) {
        let model = Model::open(&source).unwrap();
        for &mode in Mode::all() {
            let nbits = mode.nbits().contains(&5).then_some(5);
            let Ok(config) = QuantConfig::from_mode(mode, nbits) else { continue };
            let config = config.with_growth(true);
            let Ok(expected) = pools[0].install(|| quantize_weights(&model, &config)) else { continue };
            let expected = expected.model.to_bytes();
            for pool in &pools {
                let in_memory = pool.install(|| quantize_weights(&model, &config)).unwrap();
                pool.install(|| quantize_to_file(&model, &config, &path, &SaveOptions::default())).unwrap();
                assert!(in_memory.model.to_bytes() == expected, "{} {mode}", source.display());
                assert!(std::fs::read(&path).unwrap() == expected, "{} {mode}", source.display());
                compared += 1;
            }
        }
    }
    assert!(compared > 500, "{compared}");
}

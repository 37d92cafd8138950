//! The bodies of the fuzz targets on the compiler that everybody has: generated input, the repository's models with
//! damage, and everything that once failed (`fuzz/regressions`).

mod common;

#[path = "bodies/bytes.rs"]
mod bytes;
#[path = "bodies/codes.rs"]
mod codes;
#[path = "bodies/model.rs"]
mod model;
#[path = "bodies/predict.rs"]
mod predict;
#[path = "bodies/structured.rs"]
mod structured;
#[path = "bodies/weight_params.rs"]
mod weight_params;

use std::fs;
use std::path::Path;

use common::fixture_models;
use proptest::collection::vec;
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_decode_or_not(data in vec(any::<u8>(), 0..200)) {
        model::decodes(&data);
    }

    #[test]
    fn models_that_lie_quantize_or_not(data in vec(any::<u8>(), 0..600)) {
        structured::quantizes_what_lies(&data);
    }

    #[test]
    fn models_that_lie_run_or_not(data in vec(any::<u8>(), 0..600)) {
        predict::runs_what_lies(&data);
    }

    #[test]
    fn codes_are_packed(data in vec(any::<u8>(), 0..100)) {
        codes::packs(&data);
    }

    #[test]
    fn values_are_clustered(data in vec(any::<u8>(), 0..300)) {
        codes::clusters(&data);
    }
}

/// The models of the repository, each damaged in a few places.
#[test]
fn damaged_models_quantize_or_not() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(4);
    let (mut decoded, mut quantized, mut run) = (0, 0, 0);
    for path in fixture_models() {
        let original = fs::read(path).unwrap();
        for _ in 0..if original.len() > 10_000 { 5 } else { 40 } {
            let mut data = original.clone();
            for _ in 0..rng.random_range(0..3) {
                let at = rng.random_range(0..data.len());
                data[at] = rng.random();
            }
            decoded += usize::from(model::decodes(&data));
            data.insert(0, rng.random());
            quantized += model::quantizes(&data);
            run += usize::from(predict::runs(&data));
        }
    }
    assert!(decoded > 100 && quantized > 500 && run > 0, "{decoded} decoded, {quantized} quantized, {run} run");
}

#[test]
fn what_once_failed_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    for target in fs::read_dir(folder).unwrap() {
        let target = target.unwrap();
        if !target.file_type().unwrap().is_dir() {
            continue;
        }
        for case in fs::read_dir(target.path()).unwrap() {
            let data = fs::read(case.unwrap().path()).unwrap();
            match target.file_name().to_str().unwrap() {
                "decode" => _ = model::decodes(&data),
                "quantize" => _ = model::quantizes(&data),
                "structured" => _ = structured::quantizes_what_lies(&data),
                "predict" => {
                    predict::runs(&data);
                    predict::runs_what_lies(&data);
                }
                "weight_params" => _ = weight_params::decodes_like_prost(&data),
                "pack" => codes::packs(&data),
                "kmeans" => codes::clusters(&data),
                other => panic!("no target {other}"),
            }
        }
    }
}

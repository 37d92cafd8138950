//! Least-squares ranges: never worse than min-max, and better where bits are few.

mod common;

use common::{digits, fixture_models};
use coreml_quant::{Linear, LinearRange, LinearSymmetric, Model, Nbits, QuantConfig, check, quantize_weights};

/// The configurations for both ranges.
fn ranges(nbits: Nbits, symmetric: bool) -> [QuantConfig; 2] {
    [LinearRange::MinMax, LinearRange::LeastSquares].map(|range| {
        let config = if symmetric {
            QuantConfig::custom(LinearSymmetric::new(nbits.try_into().unwrap()).with_range(range))
        } else {
            QuantConfig::custom(Linear::new(nbits).with_range(range))
        };
        config.with_growth(true)
    })
}

#[test]
fn least_squares_is_never_worse() {
    for path in fixture_models() {
        let model = Model::open(&path).unwrap();
        // From 1 bit, and around zero from 2.
        for (nbits, symmetric) in (1..=8).flat_map(|nbits| [(nbits, false), (nbits.max(2), true)]) {
            let [min_max, least_squares] = ranges(Nbits::new(nbits).unwrap(), symmetric);
            let Ok(min_max) = quantize_weights(&model, &min_max) else { continue };
            let least_squares = quantize_weights(&model, &least_squares).unwrap();
            for (ours, theirs) in least_squares.report.weights.iter().zip(&min_max.report.weights) {
                let [ours_error, theirs_error] =
                    [ours, theirs].map(|weight| weight.distortion.unwrap().relative_error());
                assert!(
                    ours_error <= theirs_error * (1.0 + 1e-12),
                    "{}, {}, {nbits} bits, symmetric {symmetric}: {ours_error}, min-max {theirs_error}",
                    path.display(),
                    ours.place,
                );
                // It stays an ordinary linear weight.
                assert_eq!(ours.after, theirs.after);
            }
            assert_eq!(check(&least_squares.model).len(), check(&min_max.model).len());
        }
    }
}

#[test]
fn few_bits_gain_decibels() {
    for (nbits, symmetric, gain) in [(1, false, 10.0), (2, false, 4.0), (4, false, 0.8), (2, true, 5.0), (4, true, 1.5)]
    {
        let [min_max, least_squares] = ranges(Nbits::new(nbits).unwrap(), symmetric)
            .map(|config| quantize_weights(&digits(), &config).unwrap().report.sqnr_db().unwrap());
        assert!(least_squares > min_max + gain, "{nbits} bits: {least_squares}, min-max {min_max}");
    }
}

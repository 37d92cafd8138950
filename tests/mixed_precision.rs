//! Mixed precision: rules, plans and the planner.

mod common;

use common::{digits, fixture_models};
use coreml_quant::{
    Error, KmeansLut, LinearRange, Method, Mode, Model, Nbits, Plan, Planner, QuantConfig, StoredForm, Target,
    WeightInfo, check, quantize_weights,
};

fn planned(model: &Model, plan: &Plan) -> (usize, f64) {
    let quantized = quantize_weights(model, &QuantConfig::planned(plan.clone())).unwrap();
    (quantized.model.to_bytes().len(), quantized.report.sqnr_db().unwrap())
}

#[test]
fn a_size_is_met_and_used() {
    let model = digits();
    let full = model.to_bytes().len();
    for share in [0.05, 0.1, 0.13, 0.2, 0.3, 0.6, 1.0] {
        let target = (full as f64 * share) as usize;
        let plan = Planner::new(Target::Bytes(target as u64)).plan(&model).unwrap();
        let (bytes, sqnr) = planned(&model, &plan);
        assert!(bytes <= target, "{bytes} bytes, {target} asked for");
        if share < 0.3 {
            assert!(bytes as f64 > 0.99 * target as f64, "{bytes} bytes, {target} asked for");
        }
        let expected = plan.sqnr_db();
        assert!(sqnr == expected || (sqnr - expected).abs() < 1e-3, "{sqnr} dB, {expected} planned");
    }
}

#[test]
fn every_fixture_keeps_its_rules_at_every_size() {
    for path in fixture_models() {
        let model = Model::open(&path).unwrap();
        let findings = check(&model).len();
        for bits in [2.0, 5.0, 9.0, 14.0, 20.0, 32.0] {
            let planner = Planner::new(Target::AverageBits(bits)).with_requantize(true);
            let plan = match planner.plan(&model) {
                Ok(plan) => plan,
                Err(Error::TargetTooSmall { target, least }) => {
                    assert!(target < least);
                    continue;
                }
                Err(error) => panic!("{}: {error}", path.display()),
            };
            let quantized = quantize_weights(&model, &QuantConfig::planned(plan.clone())).unwrap();
            let totals = quantized.report.totals();
            assert!(totals.bytes_after as f64 <= totals.values as f64 * bits / 8.0, "{}", path.display());
            // Nothing moved along that the plan did not count.
            assert_eq!(totals.bytes_after, plan.bytes(), "{}, {bits} bits:\n{}", path.display(), quantized.report);
            assert!(check(&quantized.model).len() <= findings, "{}: {:?}", path.display(), check(&quantized.model));
        }
    }
}

#[test]
fn an_error_is_kept_within() {
    let model = digits();
    let mut last = 0;
    for sqnr in [5.0, 20.0, 30.0, 50.0, 100.0] {
        let plan = Planner::new(Target::SqnrDb(sqnr)).plan(&model).unwrap();
        let (bytes, found) = planned(&model, &plan);
        assert!(found >= sqnr - 1e-3, "{found} dB, {sqnr} asked for");
        assert!(bytes > last);
        last = bytes;
    }
}

#[test]
fn an_impossible_size_is_an_error() {
    let refused = Planner::new(Target::Bytes(100)).plan(&digits());
    assert!(matches!(refused, Err(Error::TargetTooSmall { target: 100, least }) if least > 100), "{refused:?}");
}

/// Three weights, nine ways to store each: all 729 plans against the planner's.
#[test]
fn brute_force_finds_nothing_better_by_a_step() {
    let model = digits();
    let three = |weight: &WeightInfo<'_>| {
        weight.field == "weights" && ["conv_2", "dense_1", "dense_2"].contains(&weight.layer_name)
    };
    // (bytes, cost) of each weight in 1 to 8 bits, and kept.
    let mut choices: Vec<Vec<(usize, f64)>> = Vec::new();
    for nbits in 1..=8 {
        let config = QuantConfig::kmeans_lut(nbits).unwrap().with_selector(three).with_fold(false);
        let report = quantize_weights(&model, &config).unwrap().report;
        let converted = report.weights.iter().filter(|weight| weight.after.is_quantized());
        for (index, weight) in converted.enumerate() {
            if choices.len() == index {
                choices.push(vec![(weight.bytes_before(), 0.0)]);
            }
            let cost = weight.units() as f64 * weight.distortion.unwrap().relative_error();
            choices[index].push((weight.bytes_after(), cost));
        }
    }
    assert_eq!(choices.len(), 3);
    let mut plans = vec![(0, 0.0)];
    for weight in &choices {
        plans = plans.iter().flat_map(|p| weight.iter().map(move |c| (p.0 + c.0, p.1 + c.1))).collect();
    }
    let best = |limit: usize| plans.iter().filter(|p| p.0 <= limit).map(|p| p.1).fold(f64::INFINITY, f64::min);
    let values = 38426.0;
    let kept: usize = 153_704 - choices.iter().map(|choices| choices[0].0).sum::<usize>();
    for bits in [2.5, 3.0, 3.7, 4.5, 5.2, 6.1, 7.0] {
        let planner = Planner::new(Target::AverageBits(bits)).with_modes([Mode::KmeansLut]).with_selector(three);
        let plan = planner.with_fold(false).plan(&model).unwrap();
        let limit = (values * bits / 8.0) as usize - kept;
        let cost: f64 = plan.weights.iter().map(|weight| weight.values as f64 * weight.relative_error).sum();
        // One bit of the largest weight, and what its table grows by.
        let step = 64 * 512 / 8 + 4 * 128;
        assert!(cost <= best(limit - step) * (1.0 + 1e-6), "{bits} bits: {cost}, best {}", best(limit - step));
        assert!(cost >= best(limit) * (1.0 - 1e-6), "{bits} bits: {cost}, best {}", best(limit));
    }
}

#[test]
fn rules_give_weights_their_own_quantizer() {
    let config = QuantConfig::kmeans_lut(4)
        .unwrap()
        .with_rule(|weight: &WeightInfo<'_>| weight.layer_name == "dense_2", KmeansLut::new(Nbits::TWO))
        .with_rule(|weight: &WeightInfo<'_>| weight.layer_type == "innerProduct", KmeansLut::new(Nbits::EIGHT));
    let report = quantize_weights(&digits(), &config).unwrap().report;
    let form = |layer: &str| {
        report
            .weights
            .iter()
            .find(|weight| &*weight.place.layer == layer && weight.place.field == "weights")
            .unwrap()
            .after
    };
    assert_eq!(form("conv_2"), StoredForm::LookupTable { nbits: Nbits::FOUR });
    assert_eq!(form("dense_1"), StoredForm::LookupTable { nbits: Nbits::EIGHT });
    assert_eq!(form("dense_2"), StoredForm::LookupTable { nbits: Nbits::TWO });
}

#[test]
fn plans_are_values() {
    let model = digits();
    let mut plan = Planner::new(Target::AverageBits(4.5)).plan(&model).unwrap();
    let read: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(read, plan);
    assert!(plan.to_string().lines().last().unwrap().contains("SQNR"), "{plan}");

    let method = Method::Linear { nbits: Nbits::EIGHT, range: LinearRange::LeastSquares };
    let index = plan.weights.iter().position(|weight| weight.layer == "dense_1").unwrap();
    plan.weights[index].method = method;
    let report = quantize_weights(&model, &QuantConfig::planned(plan.clone())).unwrap().report;
    assert_eq!(report.weights[index].after.to_string(), "8-bit linear x64");

    plan.weights[index].layer = "another".to_owned();
    let refused = quantize_weights(&model, &QuantConfig::planned(plan.clone()));
    assert!(matches!(refused, Err(Error::PlanMismatch { index: at, .. }) if at == index));
    plan.weights.pop();
    plan.weights.truncate(index);
    assert!(matches!(quantize_weights(&model, &QuantConfig::planned(plan)), Err(Error::PlanMismatch { .. })));
}

#[test]
fn methods_are_read_as_they_are_written() {
    for &mode in Mode::all() {
        for range in [LinearRange::MinMax, LinearRange::LeastSquares] {
            for method in Method::of_mode(mode, range) {
                assert_eq!(method.to_string().parse(), Ok(method));
            }
        }
    }
    assert_eq!("keep".parse(), Ok(Method::Keep));
}

//! Mixed precision: rules, plans and the planner.

mod common;

use common::{digits, fixture_models, kinds};
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{self, NeuralNetworkLayer, WeightParams};
use coreml_quant::{
    Error, KmeansLut, LinearRange, Method, Mode, Model, Nbits, Plan, Planner, QuantConfig, StoredForm, SymmetricBits,
    Target, WeightInfo, check, quantize_weights,
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
                Err(Error::TooFewBits { target, least }) => {
                    assert!(target == bits && target < least);
                    assert!(Planner::new(Target::AverageBits(least)).with_requantize(true).plan(&model).is_ok());
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
        assert!(found >= sqnr, "{found} dB, {sqnr} asked for");
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
fn brute_force_finds_nothing_better() {
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
        assert!(cost <= best(limit) * 1.001, "{bits} bits: {cost}, best {}", best(limit));
        assert!(cost >= best(limit) * (1.0 - 1e-4), "{bits} bits: {cost}, best {}", best(limit));
    }
}

/// Numbers that look normally distributed.
fn normal(seed: u32, units: usize, scale: f32) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..units).map(|_| scale * (0..12).map(|_| uniform()).sum::<f32>()).collect()
}

fn inner_product(name: &str, inputs: usize, outputs: usize, seed: u32) -> NeuralNetworkLayer {
    let params = proto::InnerProductLayerParams {
        input_channels: inputs as u64,
        output_channels: outputs as u64,
        has_bias: true,
        weights: Some(WeightParams::from_floats(&normal(seed, inputs * outputs, 0.05))),
        bias: Some(WeightParams::from_floats(&normal(seed + 1, outputs, 1.0))),
        ..Default::default()
    };
    NeuralNetworkLayer { name: name.into(), layer: Some(Layer::InnerProduct(params)), ..Default::default() }
}

/// One weight is most of each model: steps of it are most of all that is to gain. In the last one, a member of a
/// pipeline in a pipeline.
fn lopsided() -> Vec<Model> {
    let one = |sizes: &[(usize, usize)]| {
        let layer = |(at, &(inputs, outputs)): (usize, &(usize, usize))| {
            inner_product(&format!("layer {at}"), inputs, outputs, 10 * at as u32 + 1)
        };
        kinds::model(sizes.iter().enumerate().map(layer).collect())
    };
    let member = |sizes: &[(usize, usize)]| one(sizes).proto().clone();
    let inner = kinds::model_of(Type::Pipeline(kinds::pipeline(vec![member(&[(40, 30)]), member(&[(9, 3)])])), 4);
    let outer = kinds::model_of(Type::Pipeline(kinds::pipeline(vec![inner, member(&[(12, 10), (10, 14)])])), 4);
    let bytes = prost::Message::encode_to_vec(&outer);
    vec![
        one(&[(60, 30)]),
        one(&[(5, 3), (100, 40), (3, 9)]),
        one(&[(300, 30), (30, 300), (12, 12)]),
        Model::from_bytes(bytes).unwrap(),
    ]
}

fn uniform_configs() -> Vec<QuantConfig> {
    let of = |&mode: &Mode| -> Vec<QuantConfig> {
        match mode {
            Mode::Float16 => vec![QuantConfig::float16().with_fold(true)],
            Mode::CustomLut | Mode::Dequantize | Mode::Int8Matmul => Vec::new(),
            mode => mode.nbits().map(|nbits| QuantConfig::from_mode(mode, Some(nbits)).unwrap()).collect(),
        }
    };
    Mode::all().iter().flat_map(of).collect()
}

/// Whatever a mode does with the same number of bits for all weights, a plan does at least as well.
#[test]
fn no_uniform_mode_is_better_than_a_plan() {
    for model in lopsided() {
        for config in uniform_configs() {
            let uniform = quantize_weights(&model, &config).unwrap();
            let (bytes, sqnr) = (uniform.model.to_bytes().len(), uniform.report.sqnr_db().unwrap());
            let plan = Planner::new(Target::Bytes(bytes as u64)).plan(&model).unwrap();
            let (found_bytes, found_sqnr) = planned(&model, &plan);
            assert!(found_bytes <= bytes, "{config:?}: {found_bytes} bytes, uniform {bytes}");
            assert!(found_sqnr >= sqnr, "{config:?}: {found_sqnr} dB in {bytes} bytes, uniform {sqnr}");
            let plan = Planner::new(Target::SqnrDb(sqnr)).plan(&model).unwrap();
            let (found_bytes, found_sqnr) = planned(&model, &plan);
            assert!(found_sqnr >= sqnr, "{config:?}: {found_sqnr} dB, {sqnr} asked for");
            assert!(found_bytes <= bytes, "{config:?}: {found_bytes} bytes for {sqnr} dB, uniform {bytes}");
        }
    }
}

/// The whole menu is never worse than a part of it.
#[test]
fn no_single_mode_is_better_than_all() {
    for model in lopsided() {
        let full = model.to_bytes().len();
        for share in [6, 9, 14, 22, 30, 51] {
            let target = Target::Bytes((full * share / 100) as u64);
            let Ok(all) = Planner::new(target).plan(&model) else { continue };
            let all = planned(&model, &all).1;
            for &mode in Mode::all() {
                if let Ok(single) = Planner::new(target).with_modes([mode]).plan(&model) {
                    let single = planned(&model, &single).1;
                    assert!(all >= single - 1e-4, "{mode}, {share} %: {all} dB, alone {single}");
                }
            }
        }
    }
}

/// The least size that is named can be reached, and no byte less; in between every size is kept to.
#[test]
fn sizes_are_exact() {
    for model in lopsided() {
        let Err(Error::TargetTooSmall { target: 9, least }) = Planner::new(Target::Bytes(9)).plan(&model) else {
            panic!("9 bytes are too few");
        };
        assert!(Planner::new(Target::Bytes(least - 1)).plan(&model).is_err());
        for bytes in (least..least + 40).chain([127, 128, 129, 130, 131, 16_383, 16_384, 16_390]) {
            if bytes >= least {
                let plan = Planner::new(Target::Bytes(bytes)).plan(&model).unwrap();
                let found = planned(&model, &plan).0 as u64;
                assert!(found <= bytes && (bytes > least || found == least), "{found} bytes, {bytes} asked for");
            }
        }
    }
}

#[test]
fn a_model_without_weights_has_its_size() {
    let model = kinds::model(vec![NeuralNetworkLayer {
        name: "soft".into(),
        layer: Some(Layer::Softmax(Default::default())),
        ..Default::default()
    }]);
    let len = model.to_bytes().len() as u64;
    assert!(Planner::new(Target::Bytes(len)).plan(&model).unwrap().weights.is_empty());
    let refused = Planner::new(Target::Bytes(len / 4)).plan(&model);
    assert!(matches!(refused, Err(Error::TargetTooSmall { target, least }) if target == len / 4 && least == len));
    assert!(Planner::new(Target::SqnrDb(30.0)).plan(&model).is_ok());
}

/// Symmetric ranges hit zero, where those from the least to the greatest value do not.
#[test]
fn ternary_weights_are_symmetric() {
    let mut layer = inner_product("ternary", 64, 32, 1);
    let Some(Layer::InnerProduct(params)) = &mut layer.layer else { panic!("inner product") };
    let ternary: Vec<f32> =
        normal(5, 64 * 32, 1.0).iter().map(|v| v.signum() * f32::from(u8::from(v.abs() > 0.6))).collect();
    params.weights = Some(WeightParams::from_floats(&ternary));
    let modes = [Mode::Linear, Mode::LinearSymmetric];
    let plan = Planner::new(Target::SqnrDb(f64::INFINITY)).with_modes(modes).plan(&kinds::model(vec![layer])).unwrap();
    let expected = Method::LinearSymmetric { nbits: SymmetricBits::TWO, range: LinearRange::MinMax };
    assert_eq!(plan.weights[0].method, expected, "{plan}");
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let mut layers: Vec<_> = (0..3).map(|at| inner_product(&format!("layer {at}"), 30, 10, at)).collect();
    for (at, value) in [(1, f32::NAN), (2, f32::INFINITY)] {
        let Some(Layer::InnerProduct(params)) = &mut layers[at].layer else { panic!("inner product") };
        let mut values = normal(1, 300, 1.0);
        values[17] = value;
        params.weights = Some(WeightParams::from_floats(&values));
    }
    let model = kinds::model(layers);
    let planner = Planner::new(Target::AverageBits(8.0));
    match planner.plan(&model) {
        Err(Error::Unrepresentable { refused }) => {
            let names: Vec<&str> = refused.iter().map(|refused| &*refused.place.layer).collect();
            assert_eq!(names, ["layer 1", "layer 2"]);
        }
        other => panic!("{other:?}"),
    }
    let plan = Planner::new(Target::AverageBits(28.0)).with_fallback(true).plan(&model).unwrap();
    assert_eq!((plan.weights[2].method, plan.weights[4].method), (Method::Keep, Method::Keep));
    assert_ne!(plan.weights[0].method, Method::Keep);
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let model = digits();
    for target in [Target::SqnrDb(f64::NAN), Target::AverageBits(f64::NAN), Target::AverageBits(-1.0)] {
        let refused = Planner::new(target).plan(&model);
        assert!(matches!(refused, Err(Error::InvalidTarget { .. })), "{target:?}: {refused:?}");
    }
    for value in [f64::NAN, f64::INFINITY, -1.0] {
        let planner = Planner::new(Target::AverageBits(4.0));
        let planner = planner.with_weighting(move |place, _| if &*place.layer == "dense_2" { value } else { 1.0 });
        match planner.plan(&model) {
            Err(Error::InvalidWeighting { place, value: found }) => {
                assert_eq!((&*place.layer, found.to_bits()), ("dense_2", value.to_bits()));
            }
            other => panic!("{other:?}"),
        }
    }
    let planner = Planner::new(Target::SqnrDb(20.0)).with_weighting(|_, _| 0.0);
    assert!(planner.plan(&model).is_ok());
    let refused = Planner::new(Target::AverageBits(1.0)).plan(&model).unwrap_err();
    assert!(refused.to_string().contains("bits a value"), "{refused}");
}

/// Layers are told apart by where they are: without names they are planned as with them.
#[test]
fn names_change_nothing() {
    let sizes = [(40, 30), (30, 20), (20, 44)];
    let layers = |name: &dyn Fn(usize) -> String| {
        let layer = |(at, &(inputs, outputs)): (usize, &(usize, usize))| {
            let mut layer = inner_product(&name(at), inputs, outputs, at as u32);
            // One that has to be float: what the others become is free.
            let Some(Layer::InnerProduct(params)) = &mut layer.layer else { panic!("inner product") };
            params.has_bias = at != 1;
            params.bias = params.bias.take().filter(|_| at != 1);
            layer
        };
        kinds::model(sizes.iter().enumerate().map(layer).collect())
    };
    for bits in [3.0, 9.0, 17.0, 22.0, 27.0] {
        let plan = |model: Model| {
            let plan = Planner::new(Target::AverageBits(bits)).plan(&model).unwrap();
            plan.weights.iter().map(|weight| weight.method).collect::<Vec<_>>()
        };
        assert_eq!(plan(layers(&|_| String::new())), plan(layers(&|at| format!("layer {at}"))), "{bits} bits");
    }
}

/// Even a reader that is off by a unit in the last place of long numbers reads a plan as it was written.
#[test]
fn plans_are_read_as_they_were_written() {
    for model in lopsided() {
        for bits in [2.0, 3.3, 4.5, 6.0, 9.0, 16.0, 32.0] {
            let Ok(plan) = Planner::new(Target::AverageBits(bits)).plan(&model) else { continue };
            let read: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
            assert_eq!(read, plan);
        }
    }
    let mut plan = Planner::new(Target::AverageBits(8.0)).plan(&digits()).unwrap();
    for number in [f64::INFINITY, f64::NEG_INFINITY] {
        plan.weights[0].relative_error = number;
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "{text}");
    }
    plan.weights[0].relative_error = f64::NAN;
    let read: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert!(read.weights[0].relative_error.is_nan());
}

/// Folding makes float32 of float16 weights: where that costs more than it saves, a plan does without.
#[test]
fn a_plan_that_loses_nothing_is_not_larger_than_the_model() {
    for model in lopsided().iter().chain([&digits()]) {
        let half = quantize_weights(model, &QuantConfig::float16()).unwrap().model;
        let plan = Planner::new(Target::SqnrDb(200.0)).plan(&half).unwrap();
        let (bytes, sqnr) = planned(&half, &plan);
        assert!(bytes <= half.to_bytes().len() && sqnr >= 200.0, "{bytes} bytes, {sqnr} dB");
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

//! A layer that is skipped stays as it is: it is neither folded into another one nor takes one up.

mod evaluate;
mod networks;

use coreml_quant::{
    AdvancedSelector, FoldReason, KmeansLut, Model, Nbits, Planner, QuantConfig, Target, WeightInfo, fold, fold_except,
    quantize_weights,
};
use networks::{batchnorm, bias, convolution, layers_of, model};

/// Two pairs, a convolution and a batchnorm each, and a bias between them.
fn two_pairs() -> Model {
    let layers = vec![
        convolution("first", ("x", "a"), [4, 8], |_| {}),
        batchnorm("first_norm", ("a", "b"), 8),
        bias("between", ("b", "c"), &[8]),
        convolution("second", ("c", "d"), [8, 4], |_| {}),
        batchnorm("second_norm", ("d", "y"), 4),
    ];
    model(layers, &["x"], &["y"])
}

fn without(name: &'static str) -> impl Fn(&WeightInfo<'_>) -> bool + Send + Sync + Copy + 'static {
    move |weight| weight.layer_name != name
}

fn names(model: &Model) -> Vec<&str> {
    layers_of(model).iter().map(|layer| layer.name.as_str()).collect()
}

/// The layer is the same in both models.
#[track_caller]
fn assert_same_layer(before: &Model, after: &Model, name: &str) {
    let find = |model: &Model| layers_of(model).iter().find(|layer| layer.name == name).cloned();
    assert_eq!(find(after), find(before), "{name}");
}

#[test]
fn a_skipped_layer_is_not_folded() {
    let model = two_pairs();
    for (skipped, left) in [
        ("first", &["first", "first_norm", "second"][..]),
        ("first_norm", &["first", "first_norm", "between", "second"]),
        ("between", &["first", "between", "second"]),
        ("second", &["first", "second", "second_norm"]),
        ("second_norm", &["first", "second", "second_norm"]),
    ] {
        let config = QuantConfig::kmeans_lut(4).unwrap().with_selector(without(skipped));
        let quantized = quantize_weights(&model, &config).unwrap();
        assert_eq!(names(&quantized.model), left, "without {skipped}");
        assert_same_layer(&model, &quantized.model, skipped);
        let not_folded = &quantized.report.folds.not_folded;
        assert!(!not_folded.is_empty(), "{skipped}");
        assert!(not_folded.iter().all(|not_folded| not_folded.reason == FoldReason::Skipped), "{skipped}");
    }
}

#[test]
fn rules_narrow_nothing() {
    let model = two_pairs();
    let config = QuantConfig::kmeans_lut(4)
        .unwrap()
        .with_rule(|weight: &WeightInfo<'_>| weight.layer_name == "second", KmeansLut::new(Nbits::EIGHT))
        .with_selector(without("second"));
    let quantized = quantize_weights(&model, &config).unwrap();
    assert_same_layer(&model, &quantized.model, "second");
    assert_eq!(names(&quantized.model), ["first", "second", "second_norm"]);
}

#[test]
fn skipping_a_type_or_a_part_of_a_layer() {
    let model = two_pairs();
    let selector = |skip: &str| {
        let selector = AdvancedSelector::new([skip]).unwrap();
        selector.minimum_conv_kernel_channels(0).minimum_conv_weight_count(0)
    };
    for (skip, left) in [
        ("batchnorm", &["first", "first_norm", "between", "second", "second_norm"][..]),
        // A convolution of which only the bias is skipped is not skipped.
        ("bias", &["first", "between", "second"]),
        ("convolution", &["first", "first_norm", "second", "second_norm"]),
    ] {
        let config = QuantConfig::linear(8).unwrap().with_selector(selector(skip));
        assert_eq!(names(&quantize_weights(&model, &config).unwrap().model), left, "{skip}");
    }
}

#[test]
fn a_plan_folds_what_its_planner_folded() {
    let model = two_pairs();
    for skipped in ["first", "first_norm", "second_norm"] {
        let plan = Planner::new(Target::AverageBits(24.0)).with_selector(without(skipped)).plan(&model).unwrap();
        assert_eq!(plan.unfolded.len(), 1);
        let planned = quantize_weights(&model, &QuantConfig::planned(plan.clone())).unwrap();
        assert_same_layer(&model, &planned.model, skipped);
        assert_eq!(planned.report.weights.len(), plan.weights.len());
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<coreml_quant::Plan>(&text).unwrap().unfolded, plan.unfolded);
    }
}

#[test]
fn folding_alone_leaves_out_what_it_is_told_to() {
    let model = two_pairs();
    let folded = fold_except(&model, |network, layer| network == "model" && layer.name == "first_norm").unwrap();
    assert_eq!(names(&folded.model), ["first", "first_norm", "between", "second"]);
    assert_eq!(folded.report.folds.len(), 1);
    assert_eq!(names(&fold(&model).unwrap().model), ["first", "second"]);
    let all = fold_except(&model, |_, _| true).unwrap();
    assert_eq!(all.model.to_bytes(), model.to_bytes());
}

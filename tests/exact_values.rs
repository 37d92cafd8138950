//! Constants that are used as indices, shapes, counts or conditions keep their values in every mode.

mod common;
mod evaluate;
mod networks;

use common::shared_case;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{
    AddBroadcastableLayerParams, BiasLayerParams, BroadcastToDynamicLayerParams, GatherLayerParams,
    LoadConstantNdLayerParams, MultiplyBroadcastableLayerParams, NeuralNetworkLayer, ReshapeDynamicLayerParams,
    ReshapeStaticLayerParams, ScaleLayerParams, ScatterLayerParams, TileLayerParams, WeightParams,
    WhereBroadcastableLayerParams,
};
use coreml_quant::{
    Float16, KmeansLut, Mode, Model, Nbits, Outcome, Planner, QuantConfig, Reason, Report, StoredForm, Target,
    ValueUse, WeightInfo, quantize_weights,
};
use networks::{branch, inner_product, layer, model};

fn constant(name: &str, values: &[f32]) -> NeuralNetworkLayer {
    let params =
        LoadConstantNdLayerParams { shape: vec![values.len() as u64], data: Some(WeightParams::from_floats(values)) };
    layer(name, ("", name), Layer::LoadConstantNd(params))
}

/// A shape of a reshape, and positions that a scatter writes a table to.
fn index_constants() -> Model {
    let table: Vec<f32> = (0..720).map(|index| (index as f32 * 0.37).sin()).collect();
    let positions: Vec<f32> = (0..720).map(|index| index as f32).collect();
    let layers = vec![
        constant("shape", &[2.0, 12.0, 16.0, 4.0]),
        layer("reshape", ("in shape", "reshaped"), Layer::ReshapeDynamic(ReshapeDynamicLayerParams {})),
        constant("positions", &positions),
        constant("table", &table),
        layer(
            "moved",
            ("positions", "moved"),
            Layer::ReshapeStatic(ReshapeStaticLayerParams { target_shape: vec![720] }),
        ),
        layer("scatter", ("table moved in", "out"), Layer::Scatter(ScatterLayerParams::default())),
    ];
    model(layers, &["in"], &["reshaped", "out"])
}

/// Every mode and number of bits, also where a weight grows.
fn configs() -> Vec<(String, QuantConfig)> {
    let mut found = Vec::new();
    for &mode in Mode::all() {
        let bits: Vec<Option<u32>> =
            if mode.nbits().is_empty() { vec![None] } else { mode.nbits().map(Some).collect() };
        for nbits in bits {
            let Ok(config) = QuantConfig::from_mode(mode, nbits) else { continue };
            found.push((format!("{mode} {nbits:?}"), config.with_growth(true).with_requantize(true)));
        }
    }
    assert!(found.len() > 30);
    found
}

/// The values of a constant, whatever it is stored in.
fn values(model: &Model, name: &str) -> Vec<f32> {
    let plain = quantize_weights(model, &QuantConfig::dequantize()).unwrap().model;
    let found = plain.layers().into_iter().find(|survey| survey.layer.name == name).unwrap();
    found.weights[0].params.unwrap().float_value.iter().collect()
}

fn outcome(report: &Report, name: &str) -> (Outcome, StoredForm) {
    let weight = report.weights.iter().find(|weight| &*weight.place.layer == name).unwrap();
    (weight.outcome, weight.after)
}

const SHAPE: Outcome = Outcome::Kept(Reason::MustBeExact { used_as: ValueUse::Shape });
const INDEX: Outcome = Outcome::Kept(Reason::MustBeExact { used_as: ValueUse::Index });

#[test]
fn shapes_and_positions_are_what_they_were_in_every_mode() {
    for model in [Some(index_constants()), shared_case("index_constants.mlmodel")].into_iter().flatten() {
        for (what, config) in configs() {
            let quantized = quantize_weights(&model, &config).unwrap();
            for name in ["shape", "positions"] {
                assert_eq!(values(&quantized.model, name), values(&model, name), "{name}, {what}");
            }
        }
    }
}

#[test]
fn what_is_not_exact_stays_with_its_reason() {
    let report = quantize_weights(&index_constants(), &QuantConfig::linear(8).unwrap()).unwrap().report;
    let text = report.to_string();
    assert_eq!(outcome(&report, "positions"), (INDEX, StoredForm::Float32));
    assert!(text.contains("float32, must be exact: used as index"), "{text}");
    // The values themselves are data.
    assert!(matches!(outcome(&report, "table"), (Outcome::Converted, StoredForm::Linear { .. })), "{text}");
}

#[test]
fn float16_holds_whole_numbers_up_to_2048() {
    let up_to = |last: u32| -> Vec<f32> { (0..=last).map(|index| index as f32).collect() };
    for (last, exact) in [(2048, true), (2049, false)] {
        let gather = layer("gather", ("in at", "out"), Layer::Gather(GatherLayerParams::default()));
        let model = model(vec![constant("at", &up_to(last)), gather], &["in"], &["out"]);
        let report = quantize_weights(&model, &QuantConfig::float16()).unwrap().report;
        let expected = if exact { (Outcome::Converted, StoredForm::Float16) } else { (INDEX, StoredForm::Float32) };
        assert_eq!(outcome(&report, "at"), expected);
    }
}

#[test]
fn tables_of_few_values_are_exact_and_used() {
    let positions: Vec<f32> = (0..1000).map(|index| f32::from(index as u16 % 7) * 1001.0).collect();
    let gather = layer("gather", ("in at", "out"), Layer::Gather(GatherLayerParams::default()));
    let model = model(vec![constant("at", &positions), gather], &["in"], &["out"]);
    for (nbits, exact) in [(2, false), (3, true), (8, true)] {
        let quantized = quantize_weights(&model, &QuantConfig::kmeans_lut(nbits).unwrap()).unwrap();
        assert_eq!(outcome(&quantized.report, "at").0 == Outcome::Converted, exact, "{nbits} bits");
        assert_eq!(values(&quantized.model, "at"), positions);
    }
}

#[test]
fn no_selector_rule_or_plan_says_otherwise() {
    let model = index_constants();
    let two_bits = || KmeansLut::new(Nbits::TWO);
    let only = |weight: &WeightInfo<'_>| weight.layer_name == "positions";
    let plan = Planner::new(Target::AverageBits(12.5)).plan(&model).unwrap();
    let mut edited = plan.clone();
    for weight in &mut edited.weights {
        weight.method = coreml_quant::Method::KmeansLut { nbits: Nbits::TWO };
    }
    for config in [
        QuantConfig::custom(two_bits()).with_selector(only),
        QuantConfig::float16().with_rule(only, two_bits()),
        QuantConfig::planned(plan),
        QuantConfig::planned(edited),
    ] {
        let quantized = quantize_weights(&model, &config).unwrap();
        for name in ["shape", "positions"] {
            assert_eq!(values(&quantized.model, name), values(&model, name), "{name}, {config:?}");
        }
    }
}

#[test]
fn conditions_counts_and_bodies_of_branches_count() {
    let odd = [0.1, 0.7, 3.3, 12.9, 5.2, 8.8, 0.0, 77.7];
    let body = vec![
        layer("tile", ("in repetitions", "tiled"), Layer::Tile(TileLayerParams::default())),
        constant("inner", &odd),
        layer("masked", ("inner in in", "masked"), Layer::WhereBroadcastable(WhereBroadcastableLayerParams {})),
    ];
    let layers =
        vec![constant("condition", &odd), constant("repetitions", &odd), branch("if", "condition", body, vec![])];
    let model = model(layers, &["in"], &["masked"]);
    let config = QuantConfig::kmeans_lut(1).unwrap().with_growth(true);
    let report = quantize_weights(&model, &config).unwrap().report;
    for (name, used_as) in
        [("condition", ValueUse::Condition), ("repetitions", ValueUse::Count), ("inner", ValueUse::Condition)]
    {
        assert_eq!(outcome(&report, name).0, Outcome::Kept(Reason::MustBeExact { used_as }), "{name}");
    }
}

#[test]
fn arithmetic_with_indices_counts_and_other_arithmetic_does_not() {
    let odd = [0.1, 0.7, 3.3, 12.9, 5.2, 8.8, 0.0, 77.7];
    let add = || Layer::AddBroadcastable(AddBroadcastableLayerParams {});
    let layers = vec![
        constant("stride", &odd),
        layer("times", ("in stride", "at"), Layer::MultiplyBroadcastable(MultiplyBroadcastableLayerParams {})),
        layer("to", ("in at", "wide"), Layer::BroadcastToDynamic(BroadcastToDynamicLayerParams {})),
        constant("offset", &odd),
        layer("plus", ("wide offset", "sum"), add()),
        inner_product("product", ("sum", "out"), [8, 8], false),
    ];
    let report = quantize_weights(&model(layers, &["in"], &["out"]), &QuantConfig::linear(2).unwrap()).unwrap().report;
    assert_eq!(outcome(&report, "stride").0, SHAPE);
    assert_eq!(outcome(&report, "offset").0, Outcome::Converted);
    assert_eq!(outcome(&report, "product").0, Outcome::Converted);
}

#[test]
fn the_weights_of_one_layer_stay_together() {
    // The scale is exact in float16, the bias is not: both stay in float32, as their types must agree.
    let scale = |shape_bias: Vec<u64>, bias: &[f32]| ScaleLayerParams {
        shape_scale: vec![4],
        scale: Some(WeightParams::from_floats(&[1.0, 2.0, 3.0, 4.0])),
        has_bias: true,
        shape_bias,
        bias: Some(WeightParams::from_floats(bias)),
    };
    let bias = [1.0, 4097.0, 3.0, 2.0];
    let layers = vec![
        layer("scale", ("in", "at"), Layer::Scale(scale(vec![4], &bias))),
        layer("gather", ("in at", "out"), Layer::Gather(GatherLayerParams::default())),
    ];
    let by_itself = layer(
        "bias",
        ("in", "elsewhere"),
        Layer::Bias(BiasLayerParams { shape: vec![4], bias: Some(WeightParams::from_floats(&bias)) }),
    );
    let model = model([layers, vec![by_itself]].concat(), &["in"], &["out", "elsewhere"]);
    for config in [
        QuantConfig::float16(),
        QuantConfig::custom(Float16).with_fold(false).with_selector(|weight: &WeightInfo<'_>| weight.field == "scale"),
    ] {
        let report = quantize_weights(&model, &config).unwrap().report;
        let of_scale: Vec<_> = report.weights.iter().filter(|weight| &*weight.place.layer == "scale").collect();
        assert_eq!(of_scale.len(), 2);
        for weight in of_scale {
            assert_eq!((weight.outcome, weight.after), (INDEX, StoredForm::Float32), "{report}");
        }
    }
}

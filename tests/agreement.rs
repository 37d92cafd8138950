//! What comes out loads: whatever is asked for, the output of a valid model obeys Core ML's rules, and the report says
//! what was done.

mod common;

use common::kinds::*;
use common::{fixture_models, real_models};
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{self, BranchLayerParams, NeuralNetworkLayer, WeightParams};
use coreml_quant::{
    Biases, DefaultSelector, Dequantize, Int8, LayerSelector, Mode, Model, Nbits, Outcome, QuantConfig, Quantized,
    Reason, StoredForm, WeightInfo, check, quantize_weights,
};

/// Every mode with every number of bits.
fn configs() -> Vec<(String, QuantConfig)> {
    let mut configs = Vec::new();
    for &mode in Mode::all() {
        for nbits in mode.nbits() {
            let config = match mode {
                Mode::CustomLut => QuantConfig::custom_lut(nbits, |nbits, values| {
                    let table = (0..1 << nbits).map(|entry| entry as f32).collect();
                    Ok((table, values.iter().map(|value| u8::from(*value > 0.0)).collect()))
                }),
                _ => QuantConfig::from_mode(mode, Some(nbits)),
            };
            configs.push((format!("{mode} {nbits}"), config.unwrap()));
        }
        if mode.nbits().is_empty() {
            configs.push((mode.to_string(), QuantConfig::from_mode(mode, None).unwrap()));
        }
    }
    configs
}

/// Quantizes and holds the result against the rules and the report.
fn quantize(model: &Model, config: &QuantConfig, what: &str) -> Quantized {
    let quantized = quantize_weights(model, config).unwrap_or_else(|error| panic!("{what}: {error}"));
    let findings: Vec<_> = check(&quantized.model).iter().map(ToString::to_string).collect();
    assert_eq!(findings, [""; 0], "{what}");
    let stored: Vec<_> = quantized.model.layers().into_iter().flat_map(|layer| layer.weights).collect();
    assert_eq!(stored.len(), quantized.report.weights.len(), "{what}: every weight is in the report");
    for (weight, report) in stored.iter().zip(&quantized.report.weights) {
        assert_eq!(weight.stored.as_ref().unwrap(), &report.after, "{what}: {}", report.place);
        assert_eq!((&weight.field, &weight.shape), (&report.place.field, &report.shape), "{what}");
        let stays = report.before == report.after;
        assert!(stays || !matches!(report.outcome, Outcome::Kept(_)), "{what}: {}", report.place);
    }
    quantized
}

/// The form and the outcome of each weight.
fn outcomes(quantized: &Quantized) -> Vec<(&str, StoredForm, Outcome)> {
    let weights = quantized.report.weights.iter();
    weights.map(|weight| (&*weight.place.field, weight.after, weight.outcome)).collect()
}

fn only_weights(weight: &WeightInfo<'_>) -> bool {
    weight.field == "weights"
}

fn linear_form(nbits: u32, scales: usize) -> StoredForm {
    StoredForm::Linear { nbits: Nbits::new(nbits).unwrap(), scales, biases: scales }
}

/// Every kind of layer, from every form, to every form, with all weights, some, or the others selected.
#[test]
fn valid_models_stay_valid() {
    /// From a weight's index in its layer, its number of values and of channels.
    type Source = fn(usize, usize, usize) -> WeightParams;
    let sources: [(&str, Source); 5] = [
        ("float32", |_, units, _| float32(units)),
        ("float16", |_, units, _| float16(units)),
        ("linear", |_, units, channels| linear(5, units, channels, channels)),
        ("float32 and table", |index, units, _| if index % 2 == 0 { table(8, units, 256) } else { float32(units) }),
        ("linear and float16", |index, units, _| if index % 2 == 0 { float16(units) } else { linear(1, units, 1, 0) }),
    ];
    let selectors: [fn(&WeightInfo<'_>) -> bool; 4] = [
        |_| true,
        |weight| weight.shape.len() > 1,
        |weight| weight.shape.len() == 1,
        |weight| weight.field.len() % 2 == 0,
    ];
    let mut cases = 0;
    for (source, make) in sources {
        let mut layers = Vec::new();
        for kind in kinds() {
            let mut index = 0;
            let layer = kind.layer(&mut |_, units, channels| {
                index += 1;
                Some(make(index, units, channels))
            });
            // Not every kind can be stored in every form.
            if check(&model(vec![layer.clone()])).is_empty() {
                layers.push(layer);
            }
        }
        assert!(layers.len() > 20, "{source}: {}", layers.len());
        let model = model(layers);
        for (name, config) in configs() {
            for selector in selectors {
                for config in [
                    config.clone().with_selector(selector),
                    config.clone().with_selector(selector).with_growth(true).with_requantize(true),
                ] {
                    quantize(&model, &config, &format!("{source} to {name}"));
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 1000, "{cases}");
}

#[test]
fn models_of_others_stay_valid() {
    for path in fixture_models().into_iter().chain(real_models()) {
        let model = Model::open(&path).unwrap();
        // Pipelines may hold nothing to quantize.
        if model.layers().is_empty() {
            continue;
        }
        for (name, config) in configs() {
            if path.metadata().unwrap().len() > 1 << 20 && name.ends_with(['1', '2', '3', '5', '6', '7']) {
                continue;
            }
            quantize(&model, &config, &format!("{} {name}", path.display()));
        }
    }
}

/// Create ML writes float32 weights with float16 biases and the like: not valid, but what comes out is.
#[test]
fn mixed_floats_become_valid() {
    for kind in kinds().into_iter().filter(|kind| matches!(kind.takes, Takes::Any | Takes::Floats)) {
        for remainder in [0, 1] {
            let mut index = 0;
            let layer = kind.layer(&mut |_, units, _| {
                index += 1;
                Some(if index % 2 == remainder { float16(units) } else { float32(units) })
            });
            for (name, config) in configs() {
                let what = format!("{} to {name}", kind.name);
                quantize(&model(vec![layer.clone()]), &config, &what);
                quantize(&model(vec![layer.clone()]), &config.with_growth(true), &what);
            }
        }
    }
}

/// A mix that quantizing does not resolve becomes float32, which loses nothing.
#[test]
fn mixed_floats_that_are_not_quantized_become_float32() {
    let layer = kind("innerProduct")
        .layer(&mut |field, units, _| Some(if field == "bias" { float16(units) } else { float32(units) }));
    let config = QuantConfig::int8_matmul();
    let quantized = quantize(&model(vec![layer]), &config, "int8");
    assert_eq!(
        outcomes(&quantized),
        [
            ("weights", StoredForm::Float32, Outcome::Kept(Reason::LayerHasBias)),
            ("bias", StoredForm::Float32, Outcome::MovedAlong),
        ]
    );
    let bias = quantized.model.layers()[0].weights[1].params.unwrap().float_value.to_vec();
    let halves: Vec<f32> = values(C).into_iter().map(|value| half::f16::from_f32(value).to_f32()).collect();
    assert_eq!(bias, halves);
}

/// "A selector that keeps a bias in float32 while float16 is asked for the weights describes an invalid layer: the pair
/// moves together."
#[test]
fn float16_moves_the_layer_together() {
    for name in ["convolution", "convolution3d", "innerProduct", "batchedMatmul", "embedding", "embeddingND"] {
        let layer = kind(name).layer(&mut |_, units, _| Some(float32(units)));
        let config = QuantConfig::float16().with_selector(only_weights);
        let quantized = quantize(&model(vec![layer]), &config, name);
        assert_eq!(
            outcomes(&quantized),
            [("weights", StoredForm::Float16, Outcome::Converted), ("bias", StoredForm::Float16, Outcome::MovedAlong),],
            "{name}"
        );
    }
    for name in ["batchnorm", "gru", "uniDirectionalLSTM", "biDirectionalLSTM", "simpleRecurrent"] {
        let layer = kind(name).layer(&mut |_, units, _| Some(float32(units)));
        let mut first = kind(name).fields()[0].0.clone();
        let config = QuantConfig::float16().with_selector(move |weight: &WeightInfo<'_>| weight.field == first);
        let quantized = quantize(&model(vec![layer.clone()]), &config, name);
        assert!(quantized.report.weights.iter().all(|weight| weight.after == StoredForm::Float16), "{name}");
        // Other layers do not.
        first = "no such field".into();
        let config = QuantConfig::float16().with_selector(move |weight: &WeightInfo<'_>| weight.field == first);
        let quantized = quantize(&model(vec![layer]), &config, name);
        let kept = |weight: (&str, StoredForm, Outcome)| weight.2 == Outcome::Kept(Reason::NotSelected);
        assert!(outcomes(&quantized).into_iter().all(kept), "{name}");
    }
    // A weight that is float16 already counts as one that became it: the other one follows, and none is widened.
    for (name, selected, others) in [("innerProduct", "weights", "bias"), ("convolution3d", "bias", "weights")] {
        let layer = kind(name)
            .layer(&mut |field, units, _| Some(if field == selected { float16(units) } else { float32(units) }));
        let config = QuantConfig::float16().with_selector(move |weight: &WeightInfo<'_>| weight.field == selected);
        let quantized = quantize(&model(vec![layer]), &config, name);
        let mut outcomes = outcomes(&quantized);
        outcomes.sort_by_key(|(field, ..)| *field == others);
        assert_eq!(
            outcomes,
            [
                (selected, StoredForm::Float16, Outcome::Kept(Reason::AlreadyStored)),
                (others, StoredForm::Float16, Outcome::MovedAlong),
            ],
            "{name}"
        );
    }
    // Quantized weights beside it do not move.
    let layer = kind("innerProduct").layer(&mut |_, units, _| Some(float32(units)));
    let config = QuantConfig::linear(8).unwrap().with_selector(only_weights);
    let quantized = quantize(&model(vec![layer]), &config.with_growth(true), "linear");
    assert_eq!(
        outcomes(&quantized),
        [
            ("weights", linear_form(8, C), Outcome::Converted),
            ("bias", StoredForm::Float32, Outcome::Kept(Reason::NotSelected)),
        ]
    );
}

/// Where Core ML takes no codes, asking for few bits gives float16: if that holds the values.
#[test]
fn float16_stands_in_where_no_codes_are_taken() {
    let with_bias = |bias: f32| {
        let give = |field: &str, units: usize| match field {
            "bias" => WeightParams::from_floats(&vec![bias; units]),
            _ => float32(units),
        };
        let layer = kind("convolution3d").layer(&mut |field, units, _| Some(give(field, units)));
        Model::from_proto(model_of(Type::NeuralNetwork(network(vec![layer])), 1))
    };
    for (name, config) in configs() {
        let config = config.with_biases(Biases::AsWeights);
        let quantized = quantize(&with_bias(0.5), &config, &name);
        let bits: Vec<StoredForm> = quantized.report.weights.iter().map(|weight| weight.after).collect();
        let is_float = matches!(name.as_str(), "dequantize" | "int8_matmul");
        let form = if is_float { StoredForm::Float32 } else { StoredForm::Float16 };
        assert_eq!(bits, [form; 2], "{name}");
        if matches!(name.as_str(), "float16" | "dequantize" | "int8_matmul") {
            continue;
        }
        assert_eq!(quantized.model.proto().specification_version, 2, "{name}");
        assert!(quantized.report.weights.iter().all(|weight| weight.outcome == Outcome::Float16Instead), "{name}");
        // A bias that is not selected moves along.
        let quantized = quantize(&with_bias(0.5), &config.clone().with_selector(only_weights), &name);
        assert_eq!(
            outcomes(&quantized),
            [
                ("weights", StoredForm::Float16, Outcome::Float16Instead),
                ("bias", StoredForm::Float16, Outcome::MovedAlong)
            ],
            "{name}"
        );
        // Beyond float16 the layer stays, even where nobody asked for a fallback; it is as good as ever.
        for bad in [1e6, f32::NEG_INFINITY] {
            for selected in [["weights", "bias"], ["weights", ""]] {
                let select = move |weight: &WeightInfo<'_>| selected.contains(&weight.field);
                let config = config.clone().with_selector(select).with_fallback(false);
                let quantized = quantize(&with_bias(bad), &config, &name);
                assert_eq!(quantized.report.weights[0].outcome, Outcome::Kept(Reason::OthersBeyondFloat16), "{name}");
                assert_eq!(quantized.model, with_bias(bad), "{name}");
            }
        }
    }
}

/// "Layers marked isUpdatable must keep unquantized weights"; "other layers of an updatable model may be quantized".
#[test]
fn updatable_layers_stay() {
    let updatable = |name: &str, layer_marked, weights_marked| {
        let mut layer =
            kind(name).layer(&mut |_, units, _| Some(WeightParams { is_updatable: weights_marked, ..float32(units) }));
        layer.is_updatable = layer_marked;
        layer
    };
    let plain = || kind("convolution").layer(&mut |_, units, _| Some(float32(units)));
    for name in ["convolution", "innerProduct", "uniDirectionalLSTM"] {
        // The weights' own marks count too.
        for layer_marked in [true, false] {
            let mut model = model(vec![updatable(name, layer_marked, true), plain()]);
            model.proto_mut().is_updatable = true;
            for (mode, config) in configs() {
                let quantized = quantize(&model, &config.with_growth(true), &mode);
                let marked = kind(name).fields().len();
                for weight in &quantized.report.weights[..marked] {
                    let reason = if mode == "dequantize" { Reason::AlreadyStored } else { Reason::Updatable };
                    assert_eq!(weight.outcome, Outcome::Kept(reason), "{name} {mode}");
                }
                let converted = quantized.report.weights[marked..].iter().all(|w| w.outcome == Outcome::Converted);
                assert_eq!(converted, !matches!(mode.as_str(), "dequantize" | "int8_matmul"), "{mode}");
                assert_eq!(quantized.model.layers()[0].layer, model.layers()[0].layer);
            }
        }
    }
}

/// Back to float32, however that is said: from codes, and though it takes more bytes.
#[test]
fn what_is_done_decides_the_defaults() {
    let codes = || model(vec![kind("innerProduct").layer(&mut |_, units, _| Some(table(3, units, 8)))]);
    let back = quantize(&codes(), &QuantConfig::dequantize(), "dequantize");
    assert!(back.report.weights.iter().all(|weight| weight.outcome == Outcome::Converted));
    let all = |_: &WeightInfo<'_>| true;
    for config in [
        QuantConfig::custom(Dequantize),
        QuantConfig::custom(std::sync::Arc::new(Dequantize)),
        QuantConfig::float16().with_rule(all, Dequantize),
    ] {
        assert_eq!(quantize(&codes(), &config, "custom").model, back.model);
    }
    // Whoever says otherwise is heard.
    for config in [
        QuantConfig::custom(Dequantize).with_requantize(false),
        QuantConfig::dequantize().with_growth(false).with_selector(only_weights),
        QuantConfig::float16()
            .with_rule(only_weights, Dequantize)
            .with_selector(|weight: &WeightInfo<'_>| weight.field == "bias"),
    ] {
        assert_eq!(quantize(&codes(), &config, "kept").model, codes());
    }
    let matrix = |name: &str| {
        let mut layer = kind(name).layer(&mut |_, units, _| Some(table(3, units, 8)));
        if let Some(Layer::InnerProduct(params)) = layer.layer.as_mut() {
            (params.has_bias, params.bias) = (false, None);
        }
        model(vec![layer])
    };
    let int8 = quantize(&matrix("innerProduct"), &QuantConfig::custom(Int8), "int8");
    assert_eq!(outcomes(&int8), [("weights", StoredForm::Int8, Outcome::Converted)]);
}

/// The marks of weights survive.
#[test]
fn updatable_marks_survive_dequantizing() {
    let mut layer =
        kind("innerProduct").layer(&mut |_, units, _| Some(WeightParams { is_updatable: true, ..float16(units) }));
    layer.is_updatable = true;
    let quantized = quantize(&model(vec![layer]), &QuantConfig::dequantize(), "dequantize");
    for weight in &quantized.model.layers()[0].weights {
        assert_eq!(weight.stored.as_ref().unwrap(), &StoredForm::Float32);
        assert!(weight.params.unwrap().is_updatable);
    }
}

/// "Raise it, never lower it ... Raise the outer pipeline too."
#[test]
fn versions_are_raised_on_every_level() {
    let dense = || kind("innerProduct").layer(&mut |_, units, _| Some(float32(units)));
    let relu =
        NeuralNetworkLayer { name: "copy".into(), layer: Some(Layer::Copy(Default::default())), ..Default::default() };
    let branch = BranchLayerParams { if_branch: Some(network(vec![dense()])), else_branch: None };
    let branch = NeuralNetworkLayer { name: "cond".into(), layer: Some(Layer::Branch(branch)), ..Default::default() };
    let with_weights = |version| model_of(Type::NeuralNetwork(network(vec![branch.clone()])), version);
    let without = model_of(Type::NeuralNetwork(network(vec![relu])), 1);
    for (config, needed) in [
        (QuantConfig::float16(), 2),
        (QuantConfig::linear(8).unwrap().with_growth(true), 3),
        (QuantConfig::kmeans_lut(1).unwrap().with_growth(true), 3),
        (QuantConfig::dequantize(), 1),
        // Nothing is selected, so nothing is raised.
        (QuantConfig::float16().with_selector(|_: &WeightInfo<'_>| false), 1),
    ] {
        for stated in [1, 2, 3, 4, 7] {
            let inner = model_of(Type::Pipeline(pipeline(vec![without.clone(), with_weights(stated)])), stated);
            let outer = model_of(Type::Pipeline(pipeline(vec![inner, with_weights(6)])), 1);
            let quantized = quantize(&Model::from_proto(outer), &config, "versions");
            let outer = quantized.model.proto();
            let inner = &members(outer)[0];
            assert_eq!(outer.specification_version, needed);
            assert_eq!(inner.specification_version, needed.max(stated));
            assert_eq!(members(inner)[0].specification_version, 1, "nothing was quantized there");
            assert_eq!(members(inner)[1].specification_version, needed.max(stated));
            assert_eq!(members(outer)[1].specification_version, 6);
        }
    }
    let mut layer = dense();
    if let Some(Layer::InnerProduct(params)) = &mut layer.layer {
        params.has_bias = false;
    }
    let quantized = quantize(
        &Model::from_proto(model_of(Type::NeuralNetwork(network(vec![layer])), 3)),
        &QuantConfig::int8_matmul(),
        "int8",
    );
    assert_eq!(quantized.model.proto().specification_version, 5);
}

fn members(model: &proto::Model) -> &[proto::Model] {
    match &model.r#type {
        Some(Type::Pipeline(pipeline)) => &pipeline.models,
        other => panic!("{other:?}"),
    }
}

/// "What does not make the file smaller stays as it is unless asked for."
#[test]
fn nothing_grows_unless_asked_for() {
    let constant = |units: usize| {
        let params = proto::LoadConstantNdLayerParams { shape: vec![units as u64], data: Some(float32(units)) };
        model(vec![NeuralNetworkLayer { layer: Some(Layer::LoadConstantNd(params)), ..Default::default() }])
    };
    let configs = [
        ("kmeans_lut", QuantConfig::kmeans_lut(8).unwrap(), 330..365),
        ("linear_lut", QuantConfig::linear_lut(7).unwrap(), 155..185),
        ("linear", QuantConfig::linear(4).unwrap(), 1..30),
    ];
    for (name, config, range) in configs {
        let mut shrunk = Vec::new();
        for units in range.clone() {
            let original = constant(units);
            let len = |model: &Model| model.to_bytes().len();
            let grown = quantize(&original, &config.clone().with_growth(true), name);
            assert_eq!(grown.report.weights[0].outcome, Outcome::Converted);
            let quantized = quantize(&original, &config, name);
            let outcome = quantized.report.weights[0].outcome;
            shrunk.push(len(&grown.model) < len(&original));
            if len(&grown.model) < len(&original) {
                assert_eq!(outcome, Outcome::Converted, "{name}, {units} values");
                assert_eq!(len(&quantized.model), len(&grown.model));
            } else {
                assert!(
                    matches!(outcome, Outcome::Kept(Reason::WouldNotShrink { .. })),
                    "{name}, {units}: {outcome:?}"
                );
                assert_eq!(len(&quantized.model), len(&original));
            }
        }
        assert!(shrunk.is_sorted() && !shrunk[0] && shrunk[shrunk.len() - 1], "{name}: {shrunk:?}");
    }
}

fn outcome_of(layer: NeuralNetworkLayer, config: &QuantConfig) -> Vec<Outcome> {
    let quantized = quantize(&model(vec![layer]), config, "");
    quantized.report.weights.iter().map(|weight| weight.outcome).collect()
}

#[test]
fn int8_reasons() {
    let int8_config = QuantConfig::int8_matmul();
    let matrix = |name: &str, has_bias: bool, params: Make| {
        let mut layer = kind(name)
            .layer(&mut |field, units, _| Some(if field == "weights" { params(units) } else { float32(units) }));
        match layer.layer.as_mut().unwrap() {
            Layer::InnerProduct(params) => params.has_bias = has_bias,
            Layer::BatchedMatmul(params) => params.has_bias = has_bias,
            _ => unreachable!(),
        }
        layer
    };
    let enabled = |quantized: &Quantized| match quantized.model.layers()[0].layer.layer.as_ref().unwrap() {
        Layer::InnerProduct(params) => params.int8_dynamic_quantize,
        Layer::BatchedMatmul(params) => params.int8_dynamic_quantize,
        _ => unreachable!(),
    };
    for name in ["innerProduct", "batchedMatmul"] {
        assert_eq!(
            outcome_of(matrix(name, true, float32), &int8_config),
            [Outcome::Kept(Reason::LayerHasBias), Outcome::Kept(Reason::NotAMatrix)]
        );
        for source in [float32, float16, |units| linear(4, units, 1, 1)] {
            let plain = model(vec![matrix(name, false, source)]);
            let quantized = quantize(&plain, &int8_config, name);
            assert_eq!(outcomes(&quantized), [("weights", StoredForm::Int8, Outcome::Converted)]);
            assert!(enabled(&quantized));

            // Again, nothing happens; and back, the layer does not quantize its activations any more.
            let again = quantize(&quantized.model, &int8_config, name);
            assert_eq!(outcomes(&again), [("weights", StoredForm::Int8, Outcome::Kept(Reason::AlreadyStored))]);
            assert_eq!(again.model, quantized.model);
            let stays = quantize(&quantized.model, &QuantConfig::linear(8).unwrap(), name);
            assert_eq!(outcomes(&stays), [("weights", StoredForm::Int8, Outcome::Kept(Reason::AlreadyQuantized))]);
            for (config, form) in [
                (QuantConfig::dequantize(), StoredForm::Float32),
                (QuantConfig::float16().with_requantize(true).with_growth(true), StoredForm::Float16),
                (QuantConfig::linear(2).unwrap().with_requantize(true).with_growth(true), linear_form(2, C)),
            ] {
                let back = quantize(&quantized.model, &config, name);
                assert_eq!(outcomes(&back), [("weights", form, Outcome::Converted)]);
                assert!(!enabled(&back));
            }
        }
        // With the rank-5 mapping.
        let mut rank5 = model(vec![matrix(name, false, float32)]);
        if let Some(Type::NeuralNetwork(network)) = &mut rank5.proto_mut().r#type {
            network.array_input_shape_mapping = 0;
        }
        let quantized = quantize(&rank5, &int8_config, name);
        assert_eq!(outcomes(&quantized), [("weights", StoredForm::Float32, Outcome::Kept(Reason::Rank5Mapping))]);
        assert!(!enabled(&quantized));
    }
    let convolution = kind("convolution").layer(&mut |_, units, _| Some(float32(units)));
    assert_eq!(outcome_of(convolution, &int8_config), [Outcome::Kept(Reason::NotAMatrix); 2]);
}

#[test]
fn reasons_to_stay() {
    let all = |name: &str, make: Make| kind(name).layer(&mut |_, units, _| Some(make(units)));
    let grow = |config: QuantConfig| config.with_growth(true);
    let eight = || grow(QuantConfig::linear(8).unwrap());
    for config in [eight(), QuantConfig::float16(), grow(QuantConfig::kmeans_lut(2).unwrap())] {
        let outcomes = outcome_of(all("layerNormalization", float32), &config);
        assert_eq!(outcomes, [Outcome::Kept(Reason::Float32Only); 2]);
        for name in ["PReLU", "custom", "parametricSoftplus"] {
            let outcomes = outcome_of(all(name, float32), &config);
            assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Kept(Reason::LeftAlone)), "{name}");
            assert!(!outcomes.is_empty());
        }
    }
    let alike = eight().with_biases(Biases::AsWeights);
    assert_eq!(outcome_of(all("convolution3d", float16), &alike), [Outcome::Kept(Reason::FloatOnly); 2]);
    let floats_only = eight().with_float16_instead(false);
    assert_eq!(outcome_of(all("convolution3d", float32), &floats_only), [Outcome::Kept(Reason::FloatOnly); 2]);
    let biases_kept = eight().with_biases(Biases::Keep);
    assert_eq!(outcome_of(all("gru", float32), &biases_kept)[6..], [Outcome::Kept(Reason::BiasKept); 3]);
    let int8 = QuantConfig::int8_matmul();
    assert_eq!(outcome_of(all("convolution3d", float32), &int8), [Outcome::Kept(Reason::FloatOnly); 2]);
    assert_eq!(outcome_of(all("convolution3d", float32), &QuantConfig::float16()), [Outcome::Converted; 2]);
    assert_eq!(outcome_of(all("gru", float16), &QuantConfig::float16()), [Outcome::Kept(Reason::AlreadyStored); 9]);
    assert_eq!(outcome_of(all("gru", float32), &QuantConfig::dequantize()), [Outcome::Kept(Reason::AlreadyStored); 9]);
    let codes = |units| linear(4, units, 1, 1);
    assert_eq!(outcome_of(all("gru", codes), &eight()), [Outcome::Kept(Reason::AlreadyQuantized); 9]);
    assert_eq!(outcome_of(all("gru", codes), &eight().with_requantize(true)), [Outcome::Converted; 9]);
    let none = eight().with_selector(DefaultSelector.and(|_: &WeightInfo<'_>| false));
    assert_eq!(outcome_of(all("gru", float32), &none), [Outcome::Kept(Reason::NotSelected); 9]);
    // A second input brings the weights, so there is nothing to report.
    let mut two_inputs = all("convolution", float32);
    two_inputs.input = vec!["data".into(), "weights".into()];
    assert_eq!(outcome_of(two_inputs, &eight()), []);
}

/// Quantized custom weights are nobody's business, whatever they hold.
#[test]
fn custom_layers_stay_byte_for_byte() {
    let odd = [
        WeightParams::default(),
        table(3, 7, 8),
        table(3, 7, 5),
        linear(8, 9, 4, 2),
        WeightParams { quantization: None, ..linear(2, 9, 1, 1) },
        WeightParams { float16_value: vec![1, 2, 3].into(), ..float32(4) },
        int8(5, 3, 2),
    ];
    let params = proto::CustomLayerParams { weights: odd.to_vec(), ..Default::default() };
    let layer = NeuralNetworkLayer { layer: Some(Layer::Custom(params)), ..Default::default() };
    let dense = kind("innerProduct").layer(&mut |_, units, _| Some(float32(units)));
    for (mode, config) in configs() {
        let model = model(vec![layer.clone(), dense.clone()]);
        let quantized = quantize(&model, &config.with_growth(true), &mode);
        assert_eq!(quantized.model.layers()[0].layer, &layer, "{mode}");
    }
}

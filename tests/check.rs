//! Core ML's rules: every kind of layer, in every form of storage, broken in every way, with the verdict that the rules
//! ask for. The verdicts are written from the rules' text, beside the cases.

mod common;

use bytes::Bytes;
use common::kinds::*;
use common::{fixture_models, real_models};
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{
    BatchnormLayerParams, BranchLayerParams, ConvolutionLayerParams, LoopLayerParams, NeuralNetworkClassifier,
    NeuralNetworkLayer, NeuralNetworkRegressor, PipelineClassifier, PipelineRegressor, WeightParams,
};
use coreml_quant::{Model, QuantizeError, Subject, Violation, WeightError, check};

/// The name of a violation, and of what is wrong with a weight.
fn name(violation: &Violation) -> &'static str {
    match violation {
        Violation::Weight(WeightError::Shape(_)) => "Shape",
        Violation::Weight(WeightError::Missing { .. }) => "Missing",
        Violation::Weight(WeightError::SeveralForms { .. }) => "SeveralForms",
        Violation::Weight(WeightError::Length { .. }) => "Length",
        Violation::Weight(WeightError::NoQuantization { .. }) => "NoQuantization",
        Violation::Weight(WeightError::Bits { .. }) => "Bits",
        Violation::Weight(WeightError::ScaleCount { .. }) => "ScaleCount",
        Violation::Weight(WeightError::NonFiniteParameter { .. }) => "NonFiniteParameter",
        Violation::Weight(WeightError::Quantize(QuantizeError::TableLength { .. })) => "TableLength",
        Violation::Padding { .. } => "Padding",
        Violation::Form { .. } => "Form",
        Violation::Int8Unexpected => "Int8Unexpected",
        Violation::Int8Expected { .. } => "Int8Expected",
        Violation::Int8Bias => "Int8Bias",
        Violation::Int8Rank5Mapping => "Int8Rank5Mapping",
        Violation::MixedFloats { .. } => "MixedFloats",
        Violation::MixedForms { .. } => "MixedForms",
        Violation::NotUpdatable => "NotUpdatable",
        Violation::UpdatableQuantized { .. } => "UpdatableQuantized",
        Violation::UpdatableUnmarked => "UpdatableUnmarked",
        Violation::Version { .. } => "Version",
        other => panic!("a violation without a name: {other:?}"),
    }
}

/// The names of what `check` finds, and of the field or `layer` or model path it finds it at.
fn found(model: &Model) -> Vec<(String, &'static str)> {
    let at = |subject: Subject| match subject {
        Subject::Weight(place) => place.field.into_owned(),
        Subject::Layer { .. } => "layer".to_owned(),
        Subject::Model { path } => path,
        other => panic!("{other:?}"),
    };
    check(model).into_iter().map(|finding| (at(finding.subject), name(&finding.violation))).collect()
}

fn found_in(layer: NeuralNetworkLayer) -> Vec<(String, &'static str)> {
    found(&model(vec![layer]))
}

fn at(field: &str, violation: &'static str) -> Vec<(String, &'static str)> {
    vec![(field.to_owned(), violation)]
}

/// Forms of storage that are valid in themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Float32,
    Float16,
    Quantized,
    Int8,
}

fn valid_forms(units: usize, channels: usize) -> Vec<(String, Form, WeightParams)> {
    let mut forms = vec![
        ("float32".to_owned(), Form::Float32, float32(units)),
        ("float16".to_owned(), Form::Float16, float16(units)),
        ("int8".to_owned(), Form::Int8, int8(units, 1, 0)),
    ];
    // "n = 1..8; scale has length 1 or C; bias is empty or as long as scale; exactly 2^n floats"
    for nbits in 1..=8 {
        for (scales, biases) in [(1, 0), (1, 1), (channels, 0), (channels, channels)] {
            let params = linear(nbits, units, scales, biases);
            forms.push((format!("{nbits}-bit linear, {scales} scales, {biases} biases"), Form::Quantized, params));
        }
        forms.push((format!("{nbits}-bit table"), Form::Quantized, table(nbits, units, 1 << nbits)));
        // The largest code everywhere, and behind it nothing.
        let mut largest = table(nbits, units, 1 << nbits);
        let mut raw = vec![0xff; largest.raw_value.len()];
        *raw.last_mut().unwrap() <<= (raw.len() * 8 - nbits * units) as u32;
        largest.raw_value = raw.into();
        forms.push((format!("{nbits}-bit table, largest codes"), Form::Quantized, largest));
    }
    forms
}

/// Ways to break a weight, each with its verdict.
fn broken(units: usize, channels: usize) -> Vec<(&'static str, &'static str, Option<WeightParams>)> {
    let change = |params: WeightParams, change: &dyn Fn(&mut WeightParams)| {
        let mut params = params;
        change(&mut params);
        params
    };
    let bits = |params: WeightParams, nbits| {
        change(params, &|params| params.quantization.as_mut().unwrap().number_of_bits = nbits)
    };
    let untyped =
        |params: WeightParams| change(params, &|params| params.quantization.as_mut().unwrap().quantization_type = None);
    let both = |a: WeightParams, b: WeightParams| WeightParams {
        float_value: if a.float_value.is_empty() { b.float_value } else { a.float_value },
        float16_value: [a.float16_value, b.float16_value].concat().into(),
        raw_value: [a.raw_value, b.raw_value].concat().into(),
        int8_raw_value: [a.int8_raw_value, b.int8_raw_value].concat().into(),
        quantization: b.quantization.or(a.quantization),
        ..Default::default()
    };
    let resized = |bytes: &Bytes, len: usize| {
        let mut bytes = bytes.to_vec();
        bytes.resize(len, 0);
        Bytes::from(bytes)
    };
    let half = float16(units);
    let three = linear(3, units, 1, 1);
    let packed = three.raw_value.len();
    let mut cases = vec![
        // "units is the number of values"
        ("float32, one too few", "Length", float32(units - 1)),
        ("float32, one too many", "Length", float32(units + 1)),
        ("float16, one too few", "Length", float16(units - 1)),
        ("float16, one too many", "Length", float16(units + 1)),
        (
            "float16, half a value too many",
            "Length",
            WeightParams { float16_value: resized(&half.float16_value, 2 * units + 1), ..half.clone() },
        ),
        (
            "3-bit, a byte too few",
            "Length",
            WeightParams { raw_value: resized(&three.raw_value, packed - 1), ..three.clone() },
        ),
        (
            "3-bit, a byte too many",
            "Length",
            WeightParams { raw_value: resized(&three.raw_value, packed + 1), ..three.clone() },
        ),
        ("int8, one too few", "Length", int8(units - 1, 1, 0)),
        ("int8, one too many", "Length", int8(units + 1, 1, 0)),
        // "scale has length 1 or C"
        ("no scale", "ScaleCount", linear(4, units, 0, 0)),
        ("one scale too many", "ScaleCount", linear(4, units, channels + 1, 0)),
        ("a scale a value", "ScaleCount", linear(4, units, units, 0)),
        // "bias is empty or as long as scale"
        ("two biases for one scale", "ScaleCount", linear(4, units, 1, 2)),
        ("a bias too many", "ScaleCount", linear(4, units, channels, channels + 1)),
        // "exactly 2^n floats"
        ("table too short", "TableLength", table(4, units, 15)),
        ("table too long", "TableLength", table(4, units, 17)),
        ("empty table", "TableLength", table(4, units, 0)),
        // "numberOfBits in 1..8"
        ("0 bits", "Bits", bits(linear(8, units, 1, 1), 0)),
        ("9 bits", "Bits", bits(linear(8, units, 1, 1), 9)),
        ("2^32 + 8 bits", "Bits", bits(linear(8, units, 1, 1), (1 << 32) + 8)),
        ("table of 16 bits", "Bits", bits(table(8, units, 256), 16)),
        ("int8 of 7 bits", "Bits", bits(int8(units, 1, 0), 7)),
        // "a quantized weight needs quantization ... and either"
        ("codes alone", "NoQuantization", WeightParams { quantization: None, ..linear(8, units, 1, 1) }),
        ("int8 alone", "NoQuantization", WeightParams { quantization: None, ..int8(units, 1, 0) }),
        ("codes without a type", "NoQuantization", untyped(linear(8, units, 1, 1))),
        ("int8 without a type", "NoQuantization", untyped(int8(units, 1, 0))),
        (
            "int8 with a table",
            "NoQuantization",
            WeightParams { raw_value: Bytes::new(), int8_raw_value: vec![0; units].into(), ..table(8, units, 256) },
        ),
        // int8: "scale of length 1 and bias empty"
        ("int8, two scales", "ScaleCount", int8(units, 2, 0)),
        ("int8 with bias", "ScaleCount", int8(units, 1, 1)),
        // "exactly one of the four may be set"
        ("float32 and float16", "SeveralForms", both(float32(units), float16(units))),
        ("float32 and codes", "SeveralForms", both(float32(units), linear(8, units, 1, 1))),
        ("float16 and int8", "SeveralForms", both(float16(units), int8(units, 1, 0))),
        ("codes and int8", "SeveralForms", both(linear(8, units, 1, 1), int8(units, 1, 0))),
        ("empty", "Missing", WeightParams::default()),
        // No value comes of it.
        (
            "infinite scale",
            "NonFiniteParameter",
            change(linear(8, units, 1, 1), &|params| {
                use coreml_quant::proto::quantization_params::QuantizationType;
                let quantization = params.quantization.as_mut().unwrap();
                if let Some(QuantizationType::LinearQuantization(linear)) = &mut quantization.quantization_type {
                    linear.scale[0] = f32::INFINITY;
                }
            }),
        ),
    ];
    if channels > 1 {
        cases.push(("one bias for each of several channels", "ScaleCount", linear(4, units, channels, 1)));
        cases.push(("one channel too few", "ScaleCount", linear(4, units, channels - 1, 0)));
    }
    // "the whole blob padded with zero bits to a byte"
    for nbits in 1..=7 {
        let used = nbits * units % 8;
        for padding_bit in 0..(8 - used) % 8 {
            let mut padded = linear(nbits, units, 1, 1);
            let mut raw = padded.raw_value.to_vec();
            *raw.last_mut().unwrap() |= 1 << padding_bit;
            padded.raw_value = raw.into();
            cases.push(("padding is not zero", "Padding", padded));
        }
    }
    let mut cases: Vec<_> = cases.into_iter().map(|(what, verdict, params)| (what, verdict, Some(params))).collect();
    cases.push(("missing", "Missing", None));
    cases
}

/// A layer whose weight `field` is `params`; the others are float32.
fn with_one(kind: &Kind, field: &str, params: &Option<WeightParams>) -> NeuralNetworkLayer {
    kind.layer(&mut |name, units, _| if name == field { params.clone() } else { Some(float32(units)) })
}

/// The verdict on a layer in which one weight has a valid form and the others, if there are any, are float32.
fn verdict(kind: &Kind, field: &str, form: Form, alone: bool) -> Vec<(String, &'static str)> {
    match (kind.takes, form) {
        (_, Form::Float32) | (Takes::Unchecked, _) => vec![],
        // "layerNormalization: float32 only"
        (Takes::Float32, _) => {
            // Beside the other weight in float32 the floats do not agree either.
            let mixed = if form == Form::Float16 { at("layer", "MixedFloats") } else { vec![] };
            [mixed, at(field, "Form")].concat()
        }
        // "parametricSoftplus: alpha and beta of one type"
        (Takes::Alike, _) => at("layer", "MixedForms"),
        // "weights and bias may not be one float16 and the other float32", "no mix of float16 and float32 among the
        // layer's weights"
        (_, Form::Float16) if alone => vec![],
        (_, Form::Float16) => at("layer", "MixedFloats"),
        // "convolution3d: quantized is rejected"
        (Takes::Floats, _) => at(field, "Form"),
        (Takes::Any, Form::Quantized) => vec![],
        // "signed 8-bit, only under int8DynamicQuantize"
        (Takes::Any, Form::Int8) => at(field, "Int8Unexpected"),
    }
}

#[test]
fn every_weight_in_every_valid_form() {
    let mut cases = 0;
    for kind in kinds() {
        let fields = kind.fields();
        for (field, units, channels) in &fields {
            for (what, form, params) in valid_forms(*units, *channels) {
                let expected = verdict(&kind, field, form, fields.len() == 1);
                assert_eq!(found_in(with_one(&kind, field, &Some(params))), expected, "{} {field}: {what}", kind.name);
                cases += 1;
            }
        }
    }
    assert!(cases > 3000, "{cases}");
}

#[test]
fn every_weight_broken_in_every_way() {
    let mut cases = 0;
    for kind in kinds() {
        for (field, units, channels) in kind.fields() {
            for (what, verdict, params) in broken(units, channels) {
                let found = found_in(with_one(&kind, &field, &params));
                match kind.takes {
                    // Not checked, except that the two weights of a softplus have to be alike.
                    Takes::Unchecked => assert_eq!(found, [], "{} {field}: {what}", kind.name),
                    Takes::Alike => assert!(found.is_empty() || found == at("layer", "MixedForms")),
                    // What is not valid in itself has no form, so no other rule speaks of it; padding is no such case.
                    Takes::Any | Takes::Floats | Takes::Float32 => {
                        let mut expected = at(&field, verdict);
                        if verdict == "Padding" && kind.takes != Takes::Any {
                            expected.extend(at(&field, "Form"));
                        }
                        assert_eq!(found, expected, "{} {field}: {what}", kind.name);
                    }
                }
                cases += 1;
            }
        }
    }
    assert!(cases > 3000, "{cases}");
}

#[test]
fn whole_layers_in_one_form() {
    for kind in kinds() {
        let halves = found_in(kind.layer(&mut |_, units, _| Some(float16(units))));
        let quantized = found_in(kind.layer(&mut |_, units, channels| Some(linear(4, units, channels, channels))));
        let of_all = |violation| kind.fields().into_iter().map(|(field, ..)| (field, violation)).collect::<Vec<_>>();
        let (expected_halves, expected_quantized) = match kind.takes {
            Takes::Any | Takes::Unchecked | Takes::Alike => (vec![], vec![]),
            Takes::Floats => (vec![], of_all("Form")),
            Takes::Float32 => (of_all("Form"), of_all("Form")),
        };
        assert_eq!(halves, expected_halves, "{}", kind.name);
        assert_eq!(quantized, expected_quantized, "{}", kind.name);
    }
}

/// "simpleRecurrent: float types must agree unless a matrix is quantized."
#[test]
fn simple_recurrent_may_mix_beside_a_quantized_matrix() {
    let forms: [(Form, Make); 3] =
        [(Form::Float32, float32), (Form::Float16, float16), (Form::Quantized, |units| linear(8, units, 1, 1))];
    let mut mixed = 0;
    for (weight, make_weight) in forms {
        for (recursion, make_recursion) in forms {
            for (bias, make_bias) in forms {
                let layer = kind("simpleRecurrent").layer(&mut |field, units, _| {
                    Some(match field {
                        "weightMatrix" => make_weight(units),
                        "recursionMatrix" => make_recursion(units),
                        _ => make_bias(units),
                    })
                });
                let all = [weight, recursion, bias];
                let quantized_matrix = all[..2].contains(&Form::Quantized);
                let disagree = all.contains(&Form::Float16) && all.contains(&Form::Float32) && !quantized_matrix;
                let expected = if disagree { at("layer", "MixedFloats") } else { vec![] };
                assert_eq!(found_in(layer), expected, "{all:?}");
                mixed += usize::from(disagree);
            }
        }
    }
    assert_eq!(mixed, 8);
}

/// "Quantized beside either is fine", "partly quantized is fine as long as the float ones agree".
#[test]
fn quantized_weights_beside_floats() {
    for kind in kinds().into_iter().filter(|kind| kind.takes == Takes::Any) {
        for float in [float32, float16] {
            for remainder in [0, 1] {
                let mut index = 0;
                let layer = kind.layer(&mut |_, units, channels| {
                    index += 1;
                    Some(if index % 2 == remainder { float(units) } else { linear(5, units, channels, 0) })
                });
                assert_eq!(found_in(layer), [], "{}", kind.name);
            }
        }
    }
}

#[test]
fn what_is_not_read_is_not_checked() {
    let junk = || Some(both_forms());
    fn both_forms() -> WeightParams {
        WeightParams { float16_value: vec![1].into(), ..float32(3) }
    }
    // hasBias is off.
    for name in ["convolution", "innerProduct", "batchedMatmul", "embedding", "embeddingND", "convolution3d"] {
        let mut layer = with_one(&kind(name), "bias", &junk());
        match layer.layer.as_mut().unwrap() {
            Layer::Convolution(p) => p.has_bias = false,
            Layer::InnerProduct(p) => p.has_bias = false,
            Layer::BatchedMatmul(p) => p.has_bias = false,
            Layer::Embedding(p) => p.has_bias = false,
            Layer::EmbeddingNd(p) => p.has_bias = false,
            Layer::Convolution3d(p) => p.has_bias = false,
            _ => unreachable!(),
        }
        assert_eq!(found_in(layer), [], "{name}");
    }
    // "A convolution or matmul with two inputs has no stored weights ... its weight fields are not read."
    for name in ["convolution", "deconvolution", "batchedMatmul"] {
        let mut layer = kind(name).layer(&mut |_, _, _| junk());
        assert!(!found_in(layer.clone()).is_empty());
        layer.input = vec!["data".into(), "weights".into()];
        assert_eq!(found_in(layer), [], "{name}");
    }
    // "mean and variance may be empty when they are computed at run time"
    for (compute_mean_var, missing) in [(true, 0), (false, 2)] {
        let params = BatchnormLayerParams {
            channels: 6,
            compute_mean_var,
            instance_normalization: compute_mean_var,
            gamma: Some(float32(6)),
            beta: Some(float32(6)),
            ..Default::default()
        };
        let layer = NeuralNetworkLayer { layer: Some(Layer::Batchnorm(Box::new(params))), ..Default::default() };
        assert_eq!(found_in(layer).len(), missing);
    }
    assert_eq!(found_in(NeuralNetworkLayer::default()), []);
}

/// "biDirectionalLSTM (two sets)".
#[test]
fn missing_sets_of_an_lstm_are_missing_weights() {
    let mut layer = kind("uniDirectionalLSTM").layer(&mut |_, units, _| Some(float32(units)));
    if let Some(Layer::UniDirectionalLstm(params)) = &mut layer.layer {
        params.weight_params = None;
    }
    assert_eq!(found_in(layer).iter().filter(|(_, violation)| *violation == "Missing").count(), 15);
    for sets in 0..2 {
        let mut layer = kind("biDirectionalLSTM").layer(&mut |_, units, _| Some(float32(units)));
        if let Some(Layer::BiDirectionalLstm(params)) = &mut layer.layer {
            params.weight_params.truncate(sets);
        }
        assert_eq!(found_in(layer).iter().filter(|(_, v)| *v == "Missing").count(), 15 * (2 - sets));
    }
}

#[test]
fn sizes_that_make_no_shape() {
    let mut cases = Vec::new();
    for (outputs, groups, kernel, deconvolution) in [
        (6, 1, vec![3], false),
        (6, 1, vec![3, 3, 3], false),
        (6, 4, vec![1, 1], true),
        (u64::MAX, 1, vec![3, 3], false),
    ] {
        cases.push(ConvolutionLayerParams {
            output_channels: outputs,
            kernel_channels: 4,
            n_groups: groups,
            kernel_size: kernel,
            is_deconvolution: deconvolution,
            weights: Some(float32(6)),
            ..Default::default()
        });
    }
    for params in cases {
        let layer = NeuralNetworkLayer { layer: Some(Layer::Convolution(params.clone())), ..Default::default() };
        assert_eq!(found_in(layer), at("weights", "Shape"), "{params:?}");
    }
}

/// A layer marked updatable, whose weights are marked too, except for one.
fn updatable(kind: &Kind, unmarked: Option<&str>, make: &dyn Fn(&str, usize) -> WeightParams) -> NeuralNetworkLayer {
    let mut layer = kind.layer(&mut |field, units, _| {
        Some(WeightParams { is_updatable: unmarked != Some(field), ..make(field, units) })
    });
    layer.is_updatable = true;
    layer
}

/// "A layer marked isUpdatable (only convolution, innerProduct, uniDirectionalLSTM can be) must keep unquantized weights
/// and bias, each with its own isUpdatable flag."
#[test]
fn updatable_layers() {
    for kind in kinds().into_iter().filter(|kind| matches!(kind.takes, Takes::Any | Takes::Unchecked)) {
        let kind_verdict = if kind.updatable { vec![] } else { at("layer", "NotUpdatable") };
        let all_float32 = |_: &str, units| float32(units);
        assert_eq!(found_in(updatable(&kind, None, &all_float32)), kind_verdict, "{}", kind.name);
        assert_eq!(found_in(updatable(&kind, None, &|_, units| float16(units))), kind_verdict, "{}", kind.name);
        if kind.takes == Takes::Unchecked {
            continue;
        }
        for (field, ..) in kind.fields() {
            let unmarked = updatable(&kind, Some(&field), &all_float32);
            assert_eq!(found_in(unmarked), [kind_verdict.clone(), at(&field, "UpdatableUnmarked")].concat());
            let quantized = updatable(&kind, None, &|name, units| {
                if name == field { table(2, units, 4) } else { float32(units) }
            });
            assert_eq!(found_in(quantized), [kind_verdict.clone(), at(&field, "UpdatableQuantized")].concat());
        }
    }
    // "Other layers of an updatable model may be quantized."
    let dense = updatable(&kind("innerProduct"), None, &|_, units| float32(units));
    let quantized = kind("convolution").layer(&mut |_, units, _| Some(linear(4, units, 1, 1)));
    let mut model = model(vec![dense, quantized]);
    model.proto_mut().is_updatable = true;
    assert_eq!(found(&model), []);
}

/// An innerProduct or batchedMatmul with int8DynamicQuantize and without bias.
fn int8_layer(name: &str, weights: WeightParams) -> NeuralNetworkLayer {
    let mut layer = with_one(&kind(name), "weights", &Some(weights));
    set_int8(&mut layer, false);
    layer
}

fn set_int8(layer: &mut NeuralNetworkLayer, with_bias: bool) {
    match layer.layer.as_mut().unwrap() {
        Layer::InnerProduct(p) => (p.int8_dynamic_quantize, p.has_bias) = (true, with_bias),
        Layer::BatchedMatmul(p) => (p.int8_dynamic_quantize, p.has_bias) = (true, with_bias),
        _ => unreachable!(),
    }
}

/// The section on int8 activations.
#[test]
fn int8_activations() {
    for name in ["innerProduct", "batchedMatmul"] {
        let (_, units, channels) = kind(name).fields()[0].clone();
        assert_eq!(found_in(int8_layer(name, int8(units, 1, 0))), []);
        // "int8RawValue"
        for (what, form, params) in valid_forms(units, channels) {
            if form != Form::Int8 {
                assert_eq!(found_in(int8_layer(name, params)), at("weights", "Int8Expected"), "{name}: {what}");
            }
        }
        // "numberOfBits 8, linearQuantization with scale of length 1 and bias empty"
        for (what, verdict, params) in broken(units, channels).into_iter().filter(|case| case.0.starts_with("int8")) {
            assert_eq!(found_in(int8_layer(name, params.unwrap())), at("weights", verdict), "{name}: {what}");
        }
        assert_eq!(found_in(int8_layer(name, int8(units, channels, 0))), at("weights", "ScaleCount"));
        // "no layer bias"
        let mut biased = int8_layer(name, int8(units, 1, 0));
        set_int8(&mut biased, true);
        assert_eq!(found_in(biased), at("layer", "Int8Bias"));
        // "the exact array mapping (not the rank-5 one)", also inside a branch
        let layer = int8_layer(name, int8(units, 1, 0));
        let branch = BranchLayerParams { if_branch: Some(network(vec![layer.clone()])), else_branch: None };
        let branch = NeuralNetworkLayer { layer: Some(Layer::Branch(branch)), ..Default::default() };
        for layer in [layer.clone(), branch] {
            let exact = network(vec![layer]);
            assert_eq!(found(&Model::from_proto(model_of(Type::NeuralNetwork(exact.clone()), 10))), []);
            let rank5 = proto_network_rank5(exact);
            assert_eq!(found(&Model::from_proto(model_of(rank5, 10))), at("layer", "Int8Rank5Mapping"));
        }
        // "specificationVersion at least 5"
        for version in 1..=10 {
            let model = Model::from_proto(model_of(Type::NeuralNetwork(network(vec![layer.clone()])), version));
            let expected = if version < 5 { at("model", "Version") } else { vec![] };
            assert_eq!(found(&model), expected, "{name} {version}");
        }
    }
    // "on ... one-input batchedMatmul": with two, nothing is read.
    let mut layer = int8_layer("batchedMatmul", float32(1));
    layer.input = vec!["a".into(), "b".into()];
    assert_eq!(found_in(layer), []);
}

fn proto_network_rank5(mut network: coreml_quant::proto::NeuralNetwork) -> Type {
    network.array_input_shape_mapping = 0;
    Type::NeuralNetwork(network)
}

/// "float16 weights need at least 2, n-bit weights 3, int8DynamicQuantize 5", on every level.
#[test]
fn versions_on_every_level() {
    let forms: [(i32, Make); 4] =
        [(1, float32), (2, float16), (3, |units| linear(1, units, 1, 1)), (3, |units| table(8, units, 256))];
    for (needed, make) in forms {
        let layer = kind("loadConstant").layer(&mut |_, units, _| Some(make(units)));
        let wrap = |wrapped| NeuralNetworkLayer { layer: Some(wrapped), ..Default::default() };
        let in_branch =
            wrap(Layer::Branch(BranchLayerParams { if_branch: None, else_branch: Some(network(vec![layer.clone()])) }));
        let in_loop = wrap(Layer::Loop(LoopLayerParams {
            body_network: Some(network(vec![in_branch.clone()])),
            ..Default::default()
        }));
        for layer in [layer, in_branch, in_loop] {
            let layers = vec![layer];
            let networks = [
                Type::NeuralNetwork(network(layers.clone())),
                Type::NeuralNetworkClassifier(NeuralNetworkClassifier { layers: layers.clone(), ..Default::default() }),
                Type::NeuralNetworkRegressor(NeuralNetworkRegressor { layers, ..Default::default() }),
            ];
            for network in networks {
                for inner in 1..=4 {
                    let network = model_of(network.clone(), inner);
                    let of_inner = |path: &str| if inner < needed { at(path, "Version") } else { vec![] };
                    assert_eq!(found(&Model::from_proto(network.clone())), of_inner("model"));
                    for outer in 1..=4 {
                        let of = |path: &str| if outer < needed { at(path, "Version") } else { vec![] };
                        let other = model_of(Type::Identity(Default::default()), 1);
                        let members = pipeline(vec![other.clone(), network.clone()]);
                        let pipelines = [
                            Type::Pipeline(members.clone()),
                            Type::PipelineClassifier(PipelineClassifier { pipeline: Some(members.clone()) }),
                            Type::PipelineRegressor(PipelineRegressor { pipeline: Some(members) }),
                        ];
                        for kind in pipelines {
                            let model = model_of(kind, outer);
                            assert_eq!(
                                found(&Model::from_proto(model.clone())),
                                [of("model"), of_inner("model/pipeline[1]")].concat()
                            );
                            let nested = model_of(Type::Pipeline(pipeline(vec![model])), 10);
                            assert_eq!(
                                found(&Model::from_proto(nested)),
                                [of("model/pipeline[0]"), of_inner("model/pipeline[0]/pipeline[1]")].concat()
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn findings_name_the_place_and_the_numbers() {
    let mut layer = with_one(&kind("innerProduct"), "bias", &Some(float16(6)));
    layer.name = "dense".into();
    let mut model = model(vec![layer]);
    model.proto_mut().specification_version = 1;
    let texts: Vec<_> = check(&model).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "model: specificationVersion is 1, its weights need 2",
            "model: innerProduct layer \"dense\": bias is float16 and weights is float32, but they have to agree",
        ]
    );
}

/// Models that tools have written and Core ML loads.
#[test]
fn real_models_have_no_findings() {
    for path in fixture_models().into_iter().chain(real_models()) {
        let findings: Vec<_> = check(&Model::open(&path).unwrap()).iter().map(ToString::to_string).collect();
        assert_eq!(findings, [""; 0], "{}", path.display());
    }
}

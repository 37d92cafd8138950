//! Weights as a caller reaches them: by pattern, by place, as floats.

mod common;

use common::{digits, fixture};
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{
    self, ConvolutionLayerParams, InnerProductLayerParams, NeuralNetwork, NeuralNetworkLayer, WeightParams, model::Type,
};
use coreml_quant::{
    Blocks, DefaultSelector, Error, LayerSelector, LinearRange, Model, Nbits, Outcome, Pattern, Payload, QuantConfig,
    Reason, StoredForm, WeightError, check, quantize_weights,
};

#[test]
fn patterns() {
    let cases = [
        ("conv", "conv", true),
        ("conv", "conv1", false),
        ("conv*", "conv1", true),
        ("*", "", true),
        ("*conv", "a/conv", true),
        ("*conv", "a/conv/b", false),
        ("a*b*c", "abc", true),
        ("a*b*c", "aXbXbXc", true),
        ("a*b*c", "acb", false),
        ("a*a", "a", false),
        ("", "a", false),
        ("", "", true),
    ];
    for (pattern, name, expected) in cases {
        assert_eq!(Pattern::new(pattern).matches(name, "x"), expected, "{pattern} on {name}");
        assert_eq!(Pattern::new(&format!("type:{pattern}")).matches("x", name), expected, "{pattern} on {name}");
        assert_eq!(Pattern::new(pattern).to_string(), pattern);
    }
}

/// What became of the weights of each layer, by name.
fn kept(config: &QuantConfig) -> Vec<(String, bool)> {
    let report = quantize_weights(&digits(), config).unwrap().report;
    let matrices = report.weights.iter().filter(|weight| weight.place.field == "weights");
    matrices.map(|weight| (weight.place.layer.to_string(), matches!(weight.outcome, Outcome::Kept(_)))).collect()
}

#[test]
fn names_are_skipped_and_kept() {
    let all = kept(&QuantConfig::linear(4).unwrap());
    assert!(all.len() > 3 && all.iter().all(|(_, kept)| !kept));
    let name = all[1].0.clone();
    let only_it = |found: Vec<(String, bool)>| found.iter().all(|(layer, kept)| *kept == (*layer == name));
    let pattern = Pattern::new(&name);
    assert!(only_it(kept(&QuantConfig::linear(4).unwrap().with_selector(pattern.clone().not()))));
    assert!(only_it(kept(&QuantConfig::linear(4).unwrap().with_keep(pattern.clone()))));
    let boxed: Box<dyn LayerSelector> = Box::new(DefaultSelector.and(pattern.not()));
    assert!(only_it(kept(&QuantConfig::linear(4).unwrap().with_selector(boxed))));
    // The first rule decides.
    let rules = QuantConfig::linear(4)
        .unwrap()
        .with_rule(Pattern::new(&name), coreml_quant::Float16)
        .with_keep(Pattern::new("*"));
    let found = kept(&rules);
    assert!(found.iter().all(|(layer, kept)| *kept == (*layer != name)));
}

#[test]
fn numbers_of_bits() {
    assert_eq!(Nbits::all().map(u32::from).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert_eq!(Nbits::try_from(3), Ok(Nbits::THREE));
    for nbits in [0, 9, 16] {
        assert!(Nbits::try_from(nbits).unwrap_err().to_string().contains(&nbits.to_string()));
    }
}

#[test]
fn values_are_read_and_replaced() {
    let mut model = Model::open(fixture("golden/models/quantized.mlmodel")).unwrap();
    let floats = quantize_weights(&model, &QuantConfig::dequantize()).unwrap().model;
    let mut forms = std::collections::BTreeSet::new();
    for (quantized, float) in model.layers().iter().zip(floats.layers()) {
        for (quantized, float) in quantized.weights.iter().zip(&float.weights) {
            forms.insert(quantized.stored.as_ref().unwrap().to_string());
            assert_eq!(quantized.to_f32().unwrap(), float.params.unwrap().float_value.to_vec(), "{}", quantized.field);
        }
    }
    assert!(forms.len() >= 3, "{forms:?}");

    let (index, field) = {
        let layers = model.layers();
        let layer = layers.iter().find(|layer| !layer.weights.is_empty()).unwrap();
        (layer.index, layer.weights[0].field.to_string())
    };
    let weight = |model: &Model| {
        let layers = model.layers();
        (layers[index].weights[0].to_f32().unwrap(), *layers[index].weights[0].stored.as_ref().unwrap())
    };
    let mut values = weight(&model).0;
    values[1] += 1.0;
    model.set_weight(index, &field, Payload::from_f32(&values)).unwrap();
    assert_eq!(weight(&model), (values.clone(), StoredForm::Float32));
    let halves: Vec<half::f16> = values.iter().map(|&value| half::f16::from_f32(value)).collect();
    model.set_weight(index, &field, Payload::from_f16(&halves)).unwrap();
    assert_eq!(weight(&model).0, halves.iter().map(|half| half.to_f32()).collect::<Vec<_>>());

    let short = model.set_weight(index, &field, Payload::from_f32(&values[1..]));
    assert!(matches!(
        short,
        Err(Error::Weight { place, cause: WeightError::Length { expected, .. } })
            if place.index == index && expected == values.len()
    ));
    let missing = model.set_weight(index, "gamma", Payload::from_f32(&values));
    assert!(matches!(missing, Err(Error::NoWeight { field, .. }) if field == "gamma"));
}

fn network(layers: Vec<NeuralNetworkLayer>) -> Model {
    let network = NeuralNetwork { layers, ..Default::default() };
    Model::from_proto(proto::Model {
        specification_version: 4,
        r#type: Some(Type::NeuralNetwork(network)),
        ..Default::default()
    })
}

fn noise(len: usize, seed: f32) -> Vec<f32> {
    (0..len).map(|index| ((index as f32 + 1.0) * seed * 12.9898).sin() * (1.0 + index as f32 / len as f32)).collect()
}

/// Layers without names are layers of their own.
#[test]
fn unnamed_neighbours_are_told_apart() {
    let dense = |seed: f32| {
        let weights = Some(WeightParams::from_floats(&noise(400, seed)));
        let params = InnerProductLayerParams { input_channels: 20, output_channels: 20, weights, ..Default::default() };
        NeuralNetworkLayer { layer: Some(Layer::InnerProduct(params)), ..Default::default() }
    };
    let model = network(vec![dense(1.0), dense(2.0), dense(3.0)]);
    let report = quantize_weights(&model, &QuantConfig::linear(3).unwrap()).unwrap().report;
    let mut worst: Vec<usize> = report.worst_layers().iter().map(|layer| layer.index).collect();
    worst.sort();
    assert_eq!(worst, [0, 1, 2]);
}

/// A deconvolution in groups has a scale for each output channel, in the order of the groups.
#[test]
fn grouped_deconvolutions_have_a_scale_for_each_output_channel() {
    let (groups, inputs, outputs, kernel) = (3, 6, 4, 5);
    let shape = [inputs, outputs, kernel, kernel];
    // Each output channel of each group in a range of its own.
    let channel = |index: usize| {
        let (input, output) = (index / (outputs * kernel * kernel), index / (kernel * kernel) % outputs);
        input / (inputs / groups) * outputs + output
    };
    let values: Vec<f32> = noise(shape.iter().product(), 1.0)
        .into_iter()
        .enumerate()
        .map(|(index, value)| value * 4_f32.powi(channel(index) as i32))
        .collect();
    let params = ConvolutionLayerParams {
        output_channels: (groups * outputs) as u64,
        kernel_channels: inputs as u64,
        n_groups: groups as u64,
        kernel_size: vec![kernel as u64; 2],
        is_deconvolution: true,
        weights: Some(WeightParams::from_floats(&values)),
        ..Default::default()
    };
    let layer =
        NeuralNetworkLayer { name: "up".to_owned(), layer: Some(Layer::Convolution(params)), ..Default::default() };
    for range in [LinearRange::MinMax, LinearRange::LeastSquares] {
        let quantizer = coreml_quant::Linear::new(Nbits::SIX).with_range(range);
        let quantized = quantize_weights(&network(vec![layer.clone()]), &QuantConfig::custom(quantizer)).unwrap();
        assert!(check(&quantized.model).is_empty());
        assert_eq!(
            quantized.report.weights[0].after,
            StoredForm::Linear { nbits: Nbits::SIX, scales: groups * outputs, biases: groups * outputs }
        );
        let decoded = quantized.model.layers()[0].weights[0].to_f32().unwrap();
        for index in 0..values.len() {
            let of_channel = (0..values.len()).filter(|&other| channel(other) == channel(index));
            let (low, high) = of_channel
                .fold((f32::MAX, f32::MIN), |(low, high), other| (low.min(values[other]), high.max(values[other])));
            let step = (high - low) / 63.0;
            // Least squares may clip an outlier by more than half a step.
            let allowed = if range == LinearRange::MinMax { 0.501 } else { 4.0 };
            assert!((decoded[index] - values[index]).abs() <= allowed * step, "{range} value {index}");
        }
    }
    assert_eq!(Blocks::along(&shape, 1).unwrap().count(), outputs);
    let kept = quantize_weights(&network(vec![layer]), &QuantConfig::linear(8).unwrap().with_keep(Pattern::new("up")));
    assert_eq!(kept.unwrap().report.weights[0].outcome, Outcome::Kept(Reason::NotSelected));
}

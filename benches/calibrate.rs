//! Calibration of one weight, statistics and all: a convolution of 512 outputs with 4,608 inputs (2.4 million weights) at
//! 4,096 positions, and an inner product with more inputs than samples.
//!
//! Throughput counts weights. `gemm` is the product of the weight with the inputs at all positions, one run of the layer.

use std::hint::black_box;

use coreml_quant::predict::{Features, Predictor};
use coreml_quant::proto::feature_type::Type as FeatureKind;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{
    self, ArrayFeatureType, ConvolutionLayerParams, FeatureDescription, FeatureType, InnerProductLayerParams,
    ModelDescription, NeuralNetwork, NeuralNetworkLayer, SamePadding, WeightParams, convolution_layer_params,
};
use coreml_quant::{Calibration, Model, QuantConfig, quantize_weights};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::{ArrayD, IxDyn};

#[path = "synthetic.rs"]
#[allow(dead_code, reason = "the models are for the other bench")]
mod synthetic;

use synthetic::{Distribution, weights};

fn model(kind: Layer, shape: &[usize]) -> Model {
    let feature = |name: &str, shape: &[usize]| {
        let array = ArrayFeatureType { shape: shape.iter().map(|&size| size as i64).collect(), ..Default::default() };
        let kind = FeatureType { r#type: Some(FeatureKind::MultiArrayType(array)), ..Default::default() };
        FeatureDescription { name: name.to_owned(), r#type: Some(kind), ..Default::default() }
    };
    let layer = NeuralNetworkLayer {
        name: "layer".to_owned(),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        layer: Some(kind),
        ..Default::default()
    };
    Model::from_proto(proto::Model {
        specification_version: 1,
        description: Some(ModelDescription {
            input: vec![feature("x", shape)],
            output: vec![feature("y", &[])],
            ..Default::default()
        }),
        r#type: Some(Type::NeuralNetwork(NeuralNetwork { layers: vec![layer], ..Default::default() })),
        ..Default::default()
    })
}

fn floats(count: usize) -> Option<WeightParams> {
    Some(WeightParams::from_floats(&weights(Distribution::Normal, count, 1)))
}

fn samples(shape: &[usize], count: u64) -> Vec<Features> {
    let sample = |seed| {
        let values = weights(Distribution::Normal, shape.iter().product(), 100 + seed);
        Features::new().with("x", ArrayD::from_shape_vec(IxDyn(shape), values).unwrap_or_default())
    };
    (0..count).map(sample).collect()
}

fn calibrate(criterion: &mut Criterion) {
    let convolution = ConvolutionLayerParams {
        output_channels: 512,
        kernel_channels: 512,
        kernel_size: vec![3, 3],
        convolution_padding_type: Some(convolution_layer_params::ConvolutionPaddingType::Same(SamePadding::default())),
        weights: floats(512 * 4608),
        ..Default::default()
    };
    let product = InnerProductLayerParams {
        input_channels: 6272,
        output_channels: 1024,
        weights: floats(6272 * 1024),
        ..Default::default()
    };
    let cases = [
        ("convolution", model(Layer::Convolution(convolution), &[512, 16, 16]), samples(&[512, 16, 16], 16)),
        ("inner_product", model(Layer::InnerProduct(product), &[6272]), samples(&[6272], 256)),
    ];
    for (name, model, samples) in &cases {
        let mut group = criterion.benchmark_group(*name);
        group.sample_size(10);
        let Ok(predictor) = Predictor::new(model) else { continue };
        let count = if *name == "convolution" { 512 * 4608 } else { 6272 * 1024 };
        group.throughput(Throughput::Elements(count));
        group.bench_function("gemm", |bencher| {
            bencher.iter(|| samples.iter().for_each(|sample| drop(black_box(predictor.predict(sample)))));
        });
        for (mode, config) in [("kmeans_lut", QuantConfig::kmeans_lut(2)), ("linear", QuantConfig::linear(2))] {
            let Ok(config) = config else { continue };
            let calibration = Calibration::new(samples.iter().cloned()).with_held_back(false);
            let config = config.with_calibration(calibration).with_measure(false);
            group.bench_function(mode, |bencher| bencher.iter(|| black_box(quantize_weights(model, &config)).is_ok()));
        }
        group.finish();
    }
}

criterion_group!(benches, calibrate);
criterion_main!(benches);

//! The executor on a MobileNet-like and a ResNet-like network of seeded weights, images of 224 x 224, and its start on
//! them. Threads are rayon's: set `RAYON_NUM_THREADS`.

use std::hint::black_box;

use coreml_quant::Model;
use coreml_quant::predict::{Features, Predictor};
use coreml_quant::proto::activation_params::NonlinearityType;
use coreml_quant::proto::array_feature_type::ArrayDataType;
use coreml_quant::proto::border_amounts::EdgeSizes;
use coreml_quant::proto::convolution_layer_params::ConvolutionPaddingType;
use coreml_quant::proto::feature_type::Type as Feature;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::pooling_layer_params::{PoolingPaddingType, PoolingType};
use coreml_quant::proto::{
    self, ActivationParams, ActivationReLu, AddLayerParams, ArrayFeatureType, BorderAmounts, ConvolutionLayerParams,
    FeatureDescription, FeatureType, InnerProductLayerParams, ModelDescription, NeuralNetwork, NeuralNetworkLayer,
    PoolingLayerParams, ValidPadding, WeightParams,
};
use criterion::{Criterion, criterion_group, criterion_main};
use ndarray::Array3;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Layers, one after the other; each writes a blob of its own name.
struct Network {
    layers: Vec<NeuralNetworkLayer>,
    random: Xoshiro256PlusPlus,
}

impl Network {
    fn new() -> Self {
        Self { layers: Vec::new(), random: Xoshiro256PlusPlus::seed_from_u64(1) }
    }

    fn layer(&mut self, inputs: &[&str], layer: Layer) -> String {
        let name = format!("layer_{}", self.layers.len());
        self.layers.push(NeuralNetworkLayer {
            name: name.clone(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            layer: Some(layer),
            ..Default::default()
        });
        name
    }

    /// So large that values neither vanish nor grow.
    fn weights(&mut self, count: u64, inputs: u64) -> Option<WeightParams> {
        let limit = (6.0 / inputs as f32).sqrt();
        let values: Vec<f32> = (0..count).map(|_| self.random.random_range(-limit..limit)).collect();
        Some(WeightParams::from_floats(&values))
    }

    fn relu(&mut self, input: &str) -> String {
        let relu = NonlinearityType::ReLu(ActivationReLu {});
        self.layer(&[input], Layer::Activation(ActivationParams { nonlinearity_type: Some(relu) }))
    }

    /// A convolution that keeps the size but for the stride.
    fn convolution(&mut self, input: &str, sizes: [u64; 2], groups: u64, kernel: u64, stride: u64) -> String {
        let [inputs, outputs] = sizes;
        let edge = EdgeSizes { start_edge_size: kernel / 2, end_edge_size: kernel / 2 };
        let padding = ValidPadding { padding_amounts: Some(BorderAmounts { border_amounts: vec![edge; 2] }) };
        let of_one = inputs / groups * kernel * kernel;
        let params = ConvolutionLayerParams {
            output_channels: outputs,
            kernel_channels: inputs / groups,
            n_groups: groups,
            kernel_size: vec![kernel; 2],
            stride: vec![stride; 2],
            weights: self.weights(outputs * of_one, of_one),
            has_bias: true,
            bias: self.weights(outputs, 600),
            convolution_padding_type: Some(ConvolutionPaddingType::Valid(padding)),
            ..Default::default()
        };
        self.layer(&[input], Layer::Convolution(params))
    }

    /// The classifier at the end.
    fn finish(mut self, input: &str, channels: u64) -> Model {
        let average = PoolingLayerParams {
            r#type: PoolingType::Average as i32,
            global_pooling: true,
            pooling_padding_type: Some(PoolingPaddingType::Valid(ValidPadding::default())),
            ..Default::default()
        };
        let pooled = self.layer(&[input], Layer::Pooling(average));
        let params = InnerProductLayerParams {
            input_channels: channels,
            output_channels: 1000,
            weights: self.weights(1000 * channels, channels),
            ..Default::default()
        };
        let output = self.layer(&[&pooled], Layer::InnerProduct(params));
        let feature = |name: &str, shape: &[i64]| {
            let data_type = ArrayDataType::Float32 as i32;
            let array = ArrayFeatureType { shape: shape.to_vec(), data_type, ..Default::default() };
            let r#type = FeatureType { r#type: Some(Feature::MultiArrayType(array)), is_optional: false };
            FeatureDescription { name: name.to_owned(), r#type: Some(r#type), ..Default::default() }
        };
        Model::from_proto(proto::Model {
            specification_version: 1,
            description: Some(ModelDescription {
                input: vec![feature("image", &[3, 224, 224])],
                output: vec![feature(&output, &[1000])],
                ..Default::default()
            }),
            r#type: Some(Type::NeuralNetwork(NeuralNetwork { layers: self.layers, ..Default::default() })),
            ..Default::default()
        })
    }
}

/// 0.57 billion multiplications, 4.2 million weights.
fn mobilenet() -> Model {
    let mut network = Network::new();
    let first = network.convolution("image", [3, 32], 1, 3, 2);
    let mut blob = network.relu(&first);
    let mut channels = 32;
    let blocks: [(u64, u64); 9] =
        [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 5), (1024, 2), (1024, 1)];
    for (outputs, stride) in blocks.into_iter().flat_map(|(outputs, stride)| match stride {
        // Five of the same size.
        5 => vec![(outputs, 1); 5],
        _ => vec![(outputs, stride)],
    }) {
        let depthwise = network.convolution(&blob, [channels, channels], channels, 3, stride);
        let depthwise = network.relu(&depthwise);
        let pointwise = network.convolution(&depthwise, [channels, outputs], 1, 1, 1);
        blob = network.relu(&pointwise);
        channels = outputs;
    }
    network.finish(&blob, channels)
}

/// 1.7 billion multiplications, 11.7 million weights; strides of 4 at the start, no pooling there.
fn resnet() -> Model {
    let mut network = Network::new();
    let first = network.convolution("image", [3, 64], 1, 7, 4);
    let mut blob = network.relu(&first);
    let mut channels = 64;
    for (outputs, stride) in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)] {
        let around =
            if stride == 1 { blob.clone() } else { network.convolution(&blob, [channels, outputs], 1, 1, stride) };
        let one = network.convolution(&blob, [channels, outputs], 1, 3, stride);
        let one = network.relu(&one);
        let two = network.convolution(&one, [outputs, outputs], 1, 3, 1);
        let sum = network.layer(&[&two, &around], Layer::Add(AddLayerParams::default()));
        blob = network.relu(&sum);
        channels = outputs;
    }
    network.finish(&blob, channels)
}

fn predict(criterion: &mut Criterion) {
    for (name, model) in [("mobilenet", mobilenet()), ("resnet", resnet())] {
        let image = Array3::from_shape_fn((3, 224, 224), |(c, y, x)| ((c + 3 * y + 7 * x) % 255) as f32 / 255.0);
        let features = Features::new().with("image", image);
        let predictor = Predictor::new(&model).expect("the network is whole");
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20);
        group.bench_function("predict", |bencher| {
            bencher.iter(|| predictor.predict(black_box(&features)).expect("the network runs"));
        });
        group.bench_function("start", |bencher| {
            bencher.iter(|| Predictor::new(black_box(&model)).expect("the network is whole"));
        });
        group.finish();
    }
}

criterion_group!(benches, predict);
criterion_main!(benches);

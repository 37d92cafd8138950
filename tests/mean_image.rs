//! Mean images of preprocessing: shown, counted, and made the weights of bias layers that compute the same.

mod evaluate;
mod networks;

use coreml_quant::predict::{ColorOrder, Features, Image, Predictor};
use coreml_quant::proto::feature_type::Type as Feature;
use coreml_quant::proto::image_feature_type::{ColorSpace, EnumeratedImageSizes, SizeFlexibility};
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_preprocessing::Preprocessor;
use coreml_quant::proto::{
    FeatureType, ImageFeatureType, NeuralNetwork, NeuralNetworkImageScaler, NeuralNetworkLayer, NeuralNetworkMeanImage,
    NeuralNetworkPreprocessing, Pipeline,
};
use coreml_quant::{
    MeanImageObstacle, Model, Nbits, Outcome, Plan, Planner, QuantConfig, StoredForm, Target, WeightInfo, check,
    compare, quantize_weights,
};
use evaluate::Tensor;
use networks::{branch, convolution, copy, described, relu};

const WIDTH: usize = 12;
const HEIGHT: usize = 8;
const VALUES: usize = 3 * WIDTH * HEIGHT;

/// 200 different values, 0 among them.
fn mean() -> Vec<f32> {
    (0..VALUES).map(|index| (index % 200) as f32 * 0.733).collect()
}

fn step(feature: &str, preprocessor: Preprocessor) -> NeuralNetworkPreprocessing {
    NeuralNetworkPreprocessing { feature_name: feature.to_owned(), preprocessor: Some(preprocessor) }
}

fn mean_step(feature: &str, mean: Vec<f32>) -> NeuralNetworkPreprocessing {
    step(feature, Preprocessor::MeanImage(NeuralNetworkMeanImage { mean_image: mean }))
}

fn scaler(channel_scale: f32, red_bias: f32) -> NeuralNetworkPreprocessing {
    step("image", Preprocessor::Scaler(NeuralNetworkImageScaler { channel_scale, red_bias, ..Default::default() }))
}

/// An image that a convolution reads, and a branch.
fn layers() -> Vec<NeuralNetworkLayer> {
    vec![
        convolution("conv", ("image", "a"), [3, 4], |_| {}),
        branch("if", "a", vec![relu("seen", ("image", "y"))], vec![relu("unseen", ("image", "y"))]),
        copy("image_without_mean", ("y", "z")),
    ]
}

fn model_of(layers: Vec<NeuralNetworkLayer>, preprocessing: Vec<NeuralNetworkPreprocessing>) -> Model {
    let network = NeuralNetwork { layers, preprocessing, ..Default::default() };
    let mut proto = described(Type::NeuralNetwork(network), &["image"], &["a", "z"]);
    let image = ImageFeatureType {
        width: WIDTH as i64,
        height: HEIGHT as i64,
        color_space: ColorSpace::Bgr as i32,
        size_flexibility: None,
    };
    proto.description.as_mut().unwrap().input[0].r#type =
        Some(FeatureType { r#type: Some(Feature::ImageType(image)), is_optional: false });
    Model::from_proto(proto)
}

fn with_mean() -> Model {
    model_of(layers(), vec![mean_step("image", mean())])
}

/// What a model computes of an image of noise.
fn outputs(model: &Model) -> Vec<f32> {
    let noise = Tensor::noise(&[VALUES], 3).values;
    let pixels = noise.iter().map(|value| (value * 1e4) as i64 as u8).collect();
    let image = Image::from_interleaved(WIDTH, HEIGHT, ColorOrder::Bgr, pixels).unwrap();
    let outputs = Predictor::new(model).unwrap().predict(&Features::new().with("image", image)).unwrap();
    ["a", "z"].iter().flat_map(|name| outputs.array(name).unwrap().iter().copied().collect::<Vec<_>>()).collect()
}

#[test]
fn it_is_listed_and_counted() {
    let model = with_mean();
    let [found] = &model.mean_images()[..] else { panic!("{:?}", model.mean_images()) };
    assert_eq!((&*found.network, &*found.feature, found.values, found.obstacle), ("model", "image", VALUES, None));
    let report = quantize_weights(&model, &QuantConfig::linear(8).unwrap()).unwrap().report;
    assert_eq!(report.mean_images, model.mean_images());
    assert_eq!(report.totals().mean_image_bytes, 4 * VALUES as u64);
    let text = report.to_string();
    assert!(
        text.contains("model: mean image of \"image\", 1152 bytes in float32, could become a bias layer\n"),
        "{text}"
    );
    assert!(text.lines().last().unwrap().contains(", and 1152 bytes of mean images"), "{text}");
}

#[test]
fn the_bias_computes_the_same_bit_for_bit() {
    let model = with_mean();
    let expected = outputs(&model);
    assert!(expected != outputs(&model_of(layers(), vec![])));
    // 200 values fit a table of 256: exact, and smaller.
    for (config, form) in [
        (QuantConfig::dequantize(), StoredForm::Float32),
        (QuantConfig::kmeans_lut(8).unwrap().with_growth(true), StoredForm::LookupTable { nbits: Nbits::EIGHT }),
    ] {
        let config =
            config.with_mean_image_as_bias(true).with_selector(|weight: &WeightInfo<'_>| weight.layer_type == "bias");
        let quantized = quantize_weights(&model, &config).unwrap();
        assert_eq!(outputs(&quantized.model), expected);
        assert_eq!(quantized.model.mean_images(), []);
        assert_eq!(quantized.report.totals().mean_image_bytes, 0);
        let weight = &quantized.report.weights[0];
        // The name that it would have is taken.
        assert_eq!((&*weight.place.layer, weight.place.layer_type), ("image_without_mean_", "bias"));
        assert_eq!((&weight.shape[..], weight.after), (&[3, HEIGHT, WIDTH][..], form));
        assert_eq!(weight.distortion.unwrap().max_error(), 0.0);
        assert!(check(&quantized.model).is_empty());
    }
}

#[test]
fn steps_that_do_nothing_are_no_obstacle() {
    for other in [scaler(1.0, 0.0), scaler(0.0, 0.0)] {
        for steps in [[mean_step("image", mean()), other.clone()], [other.clone(), mean_step("", mean())]] {
            let model = model_of(layers(), steps.to_vec());
            let quantized = quantize_weights(&model, &QuantConfig::dequantize().with_mean_image_as_bias(true)).unwrap();
            assert_eq!(quantized.model.mean_images(), []);
            assert_eq!(outputs(&quantized.model), outputs(&model));
        }
    }
}

#[test]
fn whatever_could_change_something_is_an_obstacle() {
    let flexible = |model: &mut Model| {
        let input = &mut model.proto_mut().description.as_mut().unwrap().input[0];
        let Some(Feature::ImageType(image)) = &mut input.r#type.as_mut().unwrap().r#type else { panic!() };
        image.size_flexibility = Some(SizeFlexibility::EnumeratedSizes(EnumeratedImageSizes::default()));
    };
    let mut of_two_sizes = with_mean();
    flexible(&mut of_two_sizes);
    let is_output = |model: &mut Model| {
        let description = model.proto_mut().description.as_mut().unwrap();
        description.output.push(description.input[0].clone());
    };
    let mut output = with_mean();
    is_output(&mut output);
    let overwriting = [layers(), vec![branch("late", "a", vec![copy("again", ("a", "image"))], vec![])]].concat();
    let one = |step: NeuralNetworkPreprocessing| model_of(layers(), vec![step]);
    let mut infinite = mean();
    infinite[7] = f32::INFINITY;
    for (model, obstacle) in [
        (of_two_sizes, MeanImageObstacle::Size),
        (one(mean_step("image", vec![1.0; VALUES - 1])), MeanImageObstacle::Size),
        (one(mean_step("image", vec![])), MeanImageObstacle::Size),
        (one(mean_step("picture", mean())), MeanImageObstacle::NoImage),
        (one(mean_step("image", infinite)), MeanImageObstacle::NonFinite),
        (output, MeanImageObstacle::Overwritten),
        (model_of(overwriting, vec![mean_step("image", mean())]), MeanImageObstacle::Overwritten),
        (model_of(vec![], vec![mean_step("image", mean())]), MeanImageObstacle::NotRead),
        (model_of(layers(), vec![scaler(2.0, 0.0), mean_step("image", mean())]), MeanImageObstacle::OtherPreprocessing),
        (model_of(layers(), vec![mean_step("image", mean()), scaler(1.0, 3.0)]), MeanImageObstacle::OtherPreprocessing),
    ] {
        assert_eq!(model.mean_images()[0].obstacle, Some(obstacle));
        let config = QuantConfig::dequantize().with_mean_image_as_bias(true);
        let quantized = quantize_weights(&model, &config).unwrap();
        assert_eq!(quantized.model.to_bytes(), model.to_bytes(), "{obstacle}");
        assert!(quantized.report.to_string().contains(&format!("cannot become a bias layer: {obstacle}")));
    }
}

#[test]
fn plans_and_pipelines_do_it_and_comparing_knows_it() {
    let members = vec![with_mean().into_proto(), with_mean().into_proto()];
    let pipeline = Type::Pipeline(Pipeline { models: members, names: vec!["one".into(), "two".into()] });
    let model = Model::from_proto(described(pipeline, &["image"], &["a"]));
    assert_eq!(model.mean_images().len(), 2);
    let plan = Planner::new(Target::AverageBits(20.0)).with_mean_image_as_bias(true).plan(&model).unwrap();
    assert_eq!(plan.weights.iter().filter(|weight| weight.layer == "image_without_mean_").count(), 2);
    let plan: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    let quantized = quantize_weights(&model, &QuantConfig::planned(plan)).unwrap();
    assert_eq!(quantized.model.mean_images(), []);
    assert!(quantized.report.weights.iter().any(|weight| weight.outcome == Outcome::Converted));
    for report in [compare(&model, &quantized.model).unwrap(), compare(&quantized.model, &model).unwrap()] {
        assert_eq!(report.weights.len(), quantized.report.weights.len());
        assert_eq!(report.mean_images, []);
    }
    assert_eq!(compare(&model, &model).unwrap().mean_images.len(), 2);
}

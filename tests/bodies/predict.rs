//! Any model is run or refused, within its limits. Bodies for property tests and fuzz targets: include with `#[path]`,
//! beside `bytes` and `structured`.
#![allow(dead_code, reason = "each user takes some of it")]

use coreml_quant::Model;
use coreml_quant::predict::{FeatureKind, Features, Image, Predictor};
use coreml_quant::proto::array_feature_type::ArrayDataType;
use coreml_quant::proto::feature_type::Type as Feature;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::{ArrayFeatureType, FeatureDescription, FeatureType, ModelDescription};
use ndarray::ArrayD;

use super::bytes::Bytes;

/// Runs `data` as a model, on inputs as it describes them. Returns whether it runs.
pub fn runs(data: &[u8]) -> bool {
    let Some((&seed, data)) = data.split_first() else { return false };
    Model::from_bytes(data.to_vec()).is_ok_and(|model| predicts(&model, seed))
}

/// Builds a network from `data` that lies, and runs it on inputs of any shape.
pub fn runs_what_lies(data: &[u8]) -> bool {
    let mut data = Bytes(data);
    let seed = data.byte();
    let shape: Vec<i64> = (0..=data.byte() % 5).map(|_| i64::from(data.byte() % 5)).collect();
    let mut proto = super::structured::model(&mut data, 3);
    let Some(Type::NeuralNetwork(network)) = &mut proto.r#type else { return false };
    // A chain, so that the layers are reached.
    let mut blob = "x".to_owned();
    for (index, layer) in network.layers.iter_mut().enumerate() {
        let inputs = if layer.input.len() > 1 { 2 } else { 1 };
        layer.input = vec![blob.clone(); inputs];
        blob = format!("b{index}");
        layer.output = vec![blob.clone()];
    }
    let array = ArrayFeatureType { shape, data_type: ArrayDataType::Float32 as i32, ..Default::default() };
    let feature = |name: &str| FeatureDescription {
        name: name.to_owned(),
        r#type: Some(FeatureType { r#type: Some(Feature::MultiArrayType(array.clone())), is_optional: false }),
        ..Default::default()
    };
    proto.description =
        Some(ModelDescription { input: vec![feature("x")], output: vec![feature(&blob)], ..Default::default() });
    predicts(&Model::from_proto(proto), seed)
}

/// Runs a model within small limits.
pub fn predicts(model: &Model, seed: u8) -> bool {
    let Ok(predictor) = Predictor::new(model) else { return false };
    let predictor = predictor.with_max_values(1 << 16).with_step_limit(200);
    let mut features = Features::new();
    for input in predictor.inputs() {
        match &input.kind {
            FeatureKind::Array { shape, .. } => {
                if shape.iter().try_fold(1_usize, |len, &size| len.checked_mul(size)).is_none_or(|len| len > 1 << 12) {
                    return false;
                }
                let mut value = f32::from(seed) - 100.0;
                let values = ArrayD::from_shape_simple_fn(shape.clone(), || {
                    value = (value * 1.7 + 0.3) % 50.0;
                    value
                });
                features.insert(&input.name, values);
            }
            FeatureKind::Image { width, height, order, .. } => {
                let len = width.saturating_mul(*height).saturating_mul(order.channels());
                if len > 1 << 12 {
                    return false;
                }
                let image = Image::from_interleaved(*width, *height, *order, vec![seed; len]).expect("as many pixels");
                features.insert(&input.name, image);
            }
            FeatureKind::String => features.insert(&input.name, "a"),
            FeatureKind::Int64 => features.insert(&input.name, i64::from(seed)),
            FeatureKind::Double => features.insert(&input.name, f64::from(seed)),
            _ => {}
        }
    }
    predictor.predict(&features).is_ok()
}

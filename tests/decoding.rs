//! What is accepted as a model, and what the errors say.

mod common;

use common::{digits, fixture, fixture_models};
use coreml_quant::proto;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::{DecodeOptions, Error, Model, NotAModel};
use prost::Message;

fn refused(bytes: &[u8]) -> NotAModel {
    match Model::from_bytes(bytes.to_vec()) {
        Err(Error::NotAModel(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_field_from_the_future_is_an_error_that_says_where() {
    // Field 9999 behind the fields of the model.
    let mut bytes = digits().to_bytes();
    bytes.extend([0xfa, 0xf0, 0x04, 2, 1, 2]);
    let error = refused(&bytes);
    let NotAModel::UnknownField { ref path, message, number } = error else { panic!("{error:?}") };
    assert_eq!((path.as_str(), message, number), ("", "Model", 9999));
    assert_eq!(error.to_string(), "field 9999 of message Model is not known, and would be lost");

    let lenient = DecodeOptions::new().allow_unknown_fields(true);
    let model = Model::from_bytes_with(bytes, &lenient).unwrap();
    assert!(model == digits(), "the field is dropped, and nothing else");
}

#[test]
fn a_field_from_the_future_is_found_in_a_weight() {
    // A weight is decoded by hand, so it is looked at by hand: here in the second layer of a network in a pipeline.
    let weight = [0x0a, 4, 0, 0, 0x80, 0x3f, 0xa8, 0x06, 1];
    let nest = |number: u32, content: Vec<u8>| {
        let mut out = Vec::new();
        prost::encoding::bytes::encode(number, &content, &mut out);
        out
    };
    let layer = nest(1, nest(140, nest(20, weight.to_vec())));
    let network = nest(500, [nest(1, nest(1, b"first".to_vec())), layer].concat());
    let pipeline = nest(202, [nest(1, nest(500, Vec::new())), nest(1, network)].concat());
    let error = refused(&pipeline);
    assert_eq!(
        error.to_string(),
        "field 101 of message WeightParams in pipeline.models[1].neuralNetwork.layers[1].innerProduct.weights is not \
         known, and would be lost"
    );
}

#[test]
fn a_newer_version_is_refused_unless_allowed() {
    let mut newer = digits();
    newer.proto_mut().specification_version = 11;
    let member = newer.into_proto();
    let pipeline = proto::Pipeline { models: vec![digits().into_proto(), member.clone()], ..Default::default() };
    let outer = proto::Model { specification_version: 5, r#type: Some(Type::Pipeline(pipeline)), ..Default::default() };
    for (model, place) in [(member, "model"), (outer, "model/pipeline[1]")] {
        let bytes = model.encode_to_vec();
        let error = refused(&bytes);
        assert!(
            matches!(&error, NotAModel::NewerVersion { path, version: 11, newest: 10 } if path == place),
            "{error:?}"
        );
        let allowed = DecodeOptions::new().allow_newer_versions(true);
        assert_eq!(Model::from_bytes_with(bytes, &allowed).unwrap().proto(), &model);
    }
    let mut newest = digits();
    newest.proto_mut().specification_version = 10;
    assert!(Model::from_bytes(newest.to_bytes()).is_ok());
}

/// The one thing that is not kept: the sign of a zero in a field that is no weight.
#[test]
fn a_negative_zero_is_a_zero() {
    let mut model = digits();
    let layer = proto::NeuralNetworkLayer {
        layer: Some(Layer::Batchnorm(Box::new(proto::BatchnormLayerParams { epsilon: -0.0, ..Default::default() }))),
        ..Default::default()
    };
    let network = proto::NeuralNetwork { layers: vec![layer], ..Default::default() };
    model.proto_mut().r#type = Some(Type::NeuralNetwork(network));
    let again = Model::from_bytes(model.to_bytes()).unwrap();
    assert!(again == model, "zeros are equal");
    // In a weight, every bit counts.
    let weight = proto::WeightParams::from_floats(&[-0.0]);
    let again = proto::WeightParams::decode(&weight.encode_to_vec()[..]).unwrap();
    assert!(again.float_value.iter().all(f32::is_sign_negative));
}

#[test]
fn every_truncation_is_an_error_or_a_model() {
    for path in fixture_models() {
        let bytes = std::fs::read(path).unwrap();
        // Large files at some places only.
        for end in (0..bytes.len()).step_by(1 + bytes.len() / 2000) {
            if let Ok(model) = Model::from_bytes(bytes[..end].to_vec()) {
                assert!(model.to_bytes().len() <= end);
            }
        }
    }
}

#[test]
fn what_is_no_model_is_named() {
    assert!(matches!(refused(&[]), NotAModel::Empty));
    assert!(matches!(refused(b"version https://git-lfs.github.com/spec/v1\n"), NotAModel::LfsPointer));
    assert!(matches!(refused(b"<!DOCTYPE html>\n"), NotAModel::Text { .. }));
    assert!(matches!(refused(&[8, 5]), NotAModel::NoType { version: 5 }));
    assert!(matches!(refused(b"PK\x03\x04\x14\x00\x00\x00\x08\x00"), NotAModel::Damaged { .. }));
    // A string that is not UTF-8, in a known place.
    assert!(matches!(refused(&[0x12, 6, 0xa2, 6, 3, 0x0a, 1, 0xff]), NotAModel::Malformed(_)));
    let error = Model::open(fixture("digits/README.md")).unwrap_err();
    assert!(matches!(error, Error::NotAModelFile { what: NotAModel::Text { .. }, .. }));
    assert!(matches!(Model::open(fixture("nothing.mlmodel")), Err(Error::Io { .. })));
    assert!(matches!(Model::open(fixture("digits")), Err(Error::NotAModelFile { what: NotAModel::Folder, .. })));
}

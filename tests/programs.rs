//! ML Programs: packages made here, compressed, saved and read back; values decoded by a second reader.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use coreml_quant::proto::mil_spec::argument::{Binding, binding};
use coreml_quant::proto::mil_spec::dimension::{ConstantDimension, Dimension as DimensionKind};
use coreml_quant::proto::mil_spec::tensor_value::{self, RepeatedBools, RepeatedStrings};
use coreml_quant::proto::mil_spec::value::immediate_value::Value as Immediate;
use coreml_quant::proto::mil_spec::value::{BlobFileValue, ImmediateValue, Value as Stored};
use coreml_quant::proto::mil_spec::value_type::Type as ValueKind;
use coreml_quant::proto::mil_spec::{
    Argument, Block, Dimension, Function, NamedValueType, Operation, Program, TensorType, TensorValue, Value, ValueType,
};
use coreml_quant::proto::model::Type;
use coreml_quant::proto::{self, Pipeline};
use coreml_quant::{
    DeploymentTarget, Error, Granularity, Model, Outcome, Package, ProgramForm, Pruning, QuantConfig, Quantized,
    Reason, SaveOptions, StoredForm, SymmetricBits, WeightInfo, WeightReport, quantize_to_file, quantize_weights,
};
use half::f16;
use proptest::prelude::*;

const FILE: &str = "@model_path/weights/weight.bin";
const WEIGHTS: &str = "Data/com.apple.CoreML/weights/weight.bin";
const ROOT: &str = "Data/com.apple.CoreML/model.mlmodel";

// Making programs.

/// A weight.bin that grows.
#[derive(Default)]
struct Blobs(Vec<u8>);

impl Blobs {
    fn add(&mut self, kind: u32, data: &[u8]) -> u64 {
        if self.0.is_empty() {
            self.0.resize(64, 0);
            self.0[4] = 2;
        }
        self.0.resize(self.0.len().next_multiple_of(64), 0);
        let offset = self.0.len() as u64;
        let mut metadata = [0xA5; 64];
        metadata[..4].copy_from_slice(&0xDEAD_BEEF_u32.to_le_bytes());
        metadata[4..8].copy_from_slice(&kind.to_le_bytes());
        metadata[8..16].copy_from_slice(&(data.len() as u64).to_le_bytes());
        metadata[16..24].copy_from_slice(&(offset + 64).to_le_bytes());
        self.0.extend(metadata);
        self.0.extend(data);
        self.0[0] += 1;
        offset
    }
}

fn tensor_type(data_type: i32, shape: &[usize]) -> ValueType {
    let dimensions = shape
        .iter()
        .map(|&size| Dimension { dimension: Some(DimensionKind::Constant(ConstantDimension { size: size as u64 })) });
    let tensor =
        TensorType { data_type, rank: shape.len() as i64, dimensions: dimensions.collect(), ..TensorType::default() };
    ValueType { r#type: Some(ValueKind::TensorType(tensor)) }
}

fn immediate(data_type: i32, list: tensor_value::Value) -> Value {
    let tensor = Immediate::Tensor(TensorValue { value: Some(list) });
    Value {
        r#type: Some(tensor_type(data_type, &[])),
        value: Some(Stored::ImmediateValue(ImmediateValue { value: Some(tensor) })),
        ..Value::default()
    }
}

fn text(text: &str) -> Value {
    immediate(2, tensor_value::Value::Strings(RepeatedStrings { values: vec![text.to_owned()] }))
}

fn output(name: &str, value: ValueType) -> NamedValueType {
    NamedValueType { name: name.to_owned(), r#type: Some(value) }
}

fn named(name: &str) -> Argument {
    Argument { arguments: vec![Binding { binding: Some(binding::Binding::Name(name.to_owned())) }] }
}

/// A constant in weight.bin.
fn constant(name: &str, data_type: i32, shape: &[usize], offset: u64) -> Operation {
    let value = Value {
        r#type: Some(tensor_type(data_type, shape)),
        value: Some(Stored::BlobFileValue(BlobFileValue { file_name: FILE.to_owned(), offset })),
        ..Value::default()
    };
    Operation {
        r#type: "const".to_owned(),
        attributes: BTreeMap::from([("name".to_owned(), text(name)), ("val".to_owned(), value)]),
        outputs: vec![output(name, tensor_type(data_type, shape))],
        ..Operation::default()
    }
}

/// An operation that takes constants and what came before.
fn operation(kind: &str, name: &str, inputs: &[(&str, &str)]) -> Operation {
    Operation {
        r#type: kind.to_owned(),
        inputs: inputs.iter().map(|(parameter, source)| ((*parameter).to_owned(), named(source))).collect(),
        attributes: BTreeMap::from([("name".to_owned(), text(name))]),
        outputs: vec![output(name, tensor_type(10, &[1]))],
        ..Operation::default()
    }
}

fn block(operations: Vec<Operation>) -> Block {
    let outputs = operations.last().map(|last| last.outputs[0].name.clone());
    Block { operations, outputs: outputs.into_iter().collect(), ..Block::default() }
}

fn function(opset: &str, operations: Vec<Operation>) -> Function {
    Function {
        inputs: vec![output("x", tensor_type(10, &[1]))],
        opset: opset.to_owned(),
        block_specializations: BTreeMap::from([(opset.to_owned(), block(operations))]),
        ..Function::default()
    }
}

fn program(version: i32, functions: &[(&str, Function)]) -> proto::Model {
    let functions = functions.iter().map(|(name, function)| ((*name).to_owned(), function.clone())).collect();
    let program = Program { version: 1, functions, doc_string: "kept".to_owned(), ..Program::default() };
    proto::Model { specification_version: version, r#type: Some(Type::MlProgram(program)), ..proto::Model::default() }
}

fn manifest() -> String {
    r#"{"fileFormatVersion": "1.0.0", "someoneElse": [1, 2], "itemInfoEntries": {
        "A": {"author": "com.apple.CoreML", "description": "", "name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"},
        "B": {"author": "com.apple.CoreML", "description": "", "name": "weights", "path": "com.apple.CoreML/weights"},
        "C": {"author": "com.example", "description": "", "name": "notes", "path": "com.example/notes.txt"}},
        "rootModelIdentifier": "A"}"#
        .to_owned()
}

fn model(proto: &proto::Model, blobs: Blobs) -> Model {
    let files = [
        ("Manifest.json", Bytes::from(manifest())),
        (ROOT, prost::Message::encode_to_vec(proto).into()),
        (WEIGHTS, blobs.0.into()),
        ("Data/com.example/notes.txt", "kept".into()),
    ];
    Model::from_package(Package::new(files).unwrap()).unwrap()
}

/// Values without a pattern, some of them zero.
fn values(count: usize, seed: u64) -> Vec<f16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f16::from_f64(((state >> 33) as f64 / f64::from(1_u32 << 31) - 0.5) * 0.2)
    };
    (0..count).map(|_| next()).collect()
}

fn halves(values: &[f16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

const CONV: [usize; 4] = [16, 8, 5, 5];
const LINEAR: [usize; 2] = [64, 64];

/// A convolution and a linear layer of float16, and a bias.
fn small(opset: &str, version: i32) -> Model {
    let mut blobs = Blobs::default();
    let conv = blobs.add(1, &halves(&values(3200, 1)));
    let linear = blobs.add(1, &halves(&values(4096, 2)));
    let bias = blobs.add(1, &halves(&values(64, 3)));
    let operations = vec![
        constant("w", 10, &CONV, conv),
        operation("conv", "y", &[("x", "x"), ("weight", "w")]),
        constant("w2", 10, &LINEAR, linear),
        constant("b2", 10, &[64], bias),
        operation("linear", "z", &[("x", "y"), ("weight", "w2"), ("bias", "b2")]),
    ];
    model(&program(version, &[("main", function(opset, operations))]), blobs)
}

// Reading programs: the operations of a function, and values by what the format says.

fn operations(model: &proto::Model, name: &str) -> Vec<Operation> {
    let Some(Type::MlProgram(program)) = &model.r#type else { panic!("no program") };
    let function = &program.functions[name];
    function.block_specializations[&function.opset].operations.clone()
}

fn shape(value_type: Option<&ValueType>) -> (i32, Vec<usize>) {
    let Some(ValueKind::TensorType(tensor)) = value_type.and_then(|it| it.r#type.as_ref()) else { panic!("a tensor") };
    let size = |dimension: &Dimension| match &dimension.dimension {
        Some(DimensionKind::Constant(constant)) => constant.size as usize,
        _ => panic!("a size"),
    };
    (tensor.data_type, tensor.dimensions.iter().map(size).collect())
}

struct Reader {
    weights: Bytes,
}

impl Reader {
    fn of(model: &Model) -> Self {
        Self { weights: model.to_package().file(WEIGHTS).cloned().unwrap_or_default() }
    }

    fn bytes(&self, value: &Value) -> Bytes {
        match value.value.as_ref().unwrap() {
            Stored::BlobFileValue(blob) => {
                let at = blob.offset as usize;
                let number =
                    |from: usize| u64::from_le_bytes(self.weights[from..from + 8].try_into().unwrap()) as usize;
                assert_eq!(self.weights[at..at + 4], 0xDEAD_BEEF_u32.to_le_bytes());
                self.weights.slice(number(at + 16)..number(at + 16) + number(at + 8))
            }
            Stored::ImmediateValue(ImmediateValue { value: Some(Immediate::Tensor(tensor)) }) => {
                match tensor.value.as_ref().unwrap() {
                    tensor_value::Value::Bytes(list) => list.values.clone(),
                    tensor_value::Value::Ints(list) => list.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    tensor_value::Value::Floats(list) => list.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    _ => panic!("numbers"),
                }
            }
            _ => panic!("a value"),
        }
    }

    /// Whole numbers of a type, bit by bit.
    fn codes(&self, value: &Value) -> Vec<i32> {
        let (data_type, shape) = shape(value.r#type.as_ref());
        let (bits, signed) = match data_type {
            21 => (8, true),
            25 => (4, true),
            31 => (8, false),
            35 => (4, false),
            36 => (2, false),
            37 => (1, false),
            38 => (6, false),
            39 => (3, false),
            other => panic!("type {other}"),
        };
        self.unpack(&self.bytes(value), shape.iter().product(), bits, signed)
    }

    fn unpack(&self, bytes: &[u8], count: usize, bits: usize, signed: bool) -> Vec<i32> {
        assert_eq!(bytes.len(), (count * bits).div_ceil(8));
        let bit = |at: usize| i32::from(bytes[at / 8] >> (at % 8) & 1);
        let code = |index: usize| (0..bits).map(|b| bit(index * bits + b) << b).sum::<i32>();
        let sign = |code: i32| if signed && code >> (bits - 1) == 1 { code - (1 << bits) } else { code };
        (0..count).map(|index| sign(code(index))).collect()
    }

    fn halves(&self, value: &Value) -> Vec<f16> {
        self.bytes(value).chunks(2).map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]])).collect()
    }

    /// The values that an operation makes, all of float16.
    fn weight(&self, operation: &Operation) -> Vec<f16> {
        let value = |name: &str| match operation.inputs.get(name) {
            Some(argument) => match &argument.arguments[0].binding {
                Some(binding::Binding::Value(value)) => value,
                _ => panic!("a value"),
            },
            None => &operation.attributes[name],
        };
        let shape_of = |name: &str| shape(value(name).r#type.as_ref()).1;
        let dims = shape(operation.outputs[0].r#type.as_ref()).1;
        let count: usize = dims.iter().product();
        // The box of an element, for parameters of a shape.
        let number = |mut element: usize, counts: &[usize]| {
            let (mut number, mut stride) = (0, 1);
            for (&size, &count) in dims.iter().zip(counts).rev() {
                number += element % size / (size / count) * stride;
                stride *= count;
                element /= size;
            }
            number
        };
        match operation.r#type.as_str() {
            "const" => self.halves(&operation.attributes["val"]),
            "constexpr_affine_dequantize" => {
                let (data, scale) = (self.codes(value("quantized_data")), self.halves(value("scale")));
                let zero = self.codes(value("zero_point"));
                let axis = self.bytes(value("axis"))[0] as usize;
                let mut counts = vec![1; dims.len()];
                counts[axis] = scale.len();
                let one = |index: usize| {
                    let number = number(index, &counts);
                    f16::from_f32((data[index] - zero[number]) as f32 * scale[number].to_f32())
                };
                (0..count).map(one).collect()
            }
            "constexpr_blockwise_shift_scale" => {
                let (data, scale) = (self.codes(value("data")), self.halves(value("scale")));
                let offset = operation.inputs.contains_key("offset").then(|| self.codes(value("offset")));
                let counts = shape_of("scale");
                let one = |index: usize| {
                    let number = number(index, &counts);
                    let shifted = data[index] - offset.as_ref().map_or(0, |offset| offset[number]);
                    f16::from_f32(shifted as f32 * scale[number].to_f32())
                };
                (0..count).map(one).collect()
            }
            "constexpr_lut_to_dense" => {
                let lut = self.halves(value("lut"));
                let (codes, counts) = if operation.attributes.contains_key("shape") {
                    let bits = lut.len().ilog2() as usize;
                    (self.unpack(&self.bytes(value("indices")), count, bits, false), vec![1; dims.len()])
                } else {
                    (self.codes(value("indices")), shape_of("lut")[..dims.len()].to_vec())
                };
                let entries = lut.len() / counts.iter().product::<usize>();
                (0..count).map(|index| lut[number(index, &counts) * entries + codes[index] as usize]).collect()
            }
            "constexpr_sparse_to_dense" => {
                let mask = self.unpack(&self.bytes(value("mask")), count, 1, false);
                let mut kept = self.halves(value("nonzero_data")).into_iter();
                mask.into_iter().map(|bit| if bit == 1 { kept.next().unwrap() } else { f16::ZERO }).collect()
            }
            other => panic!("{other}"),
        }
    }

    /// The values of a named constant of the function `main`.
    fn named(&self, model: &Model, name: &str) -> (String, Vec<f16>) {
        let operations = operations(model.proto(), "main");
        let operation = operations.iter().find(|operation| operation.outputs[0].name == name).unwrap();
        (operation.r#type.clone(), self.weight(operation))
    }
}

fn report<'r>(quantized: &'r Quantized, name: &str) -> &'r WeightReport {
    quantized.report.weights.iter().find(|weight| &*weight.place.layer == name).unwrap()
}

/// The signal-to-noise ratio in decibels.
fn sqnr(original: &[f16], other: &[f16]) -> f64 {
    let signal: f64 = original.iter().map(|value| value.to_f64().powi(2)).sum();
    let noise: f64 = original.iter().zip(other).map(|(a, b)| (a.to_f64() - b.to_f64()).powi(2)).sum();
    -10.0 * (noise / signal).log10()
}

// Modes.

#[test]
fn every_form_decodes_to_what_the_report_says() {
    type Case = (QuantConfig, &'static str, &'static str, i32, f64);
    let linear = |nbits| QuantConfig::linear(nbits).unwrap();
    let symmetric = |nbits| QuantConfig::linear_symmetric(nbits).unwrap();
    let tables = |nbits| QuantConfig::kmeans_lut(nbits).unwrap();
    let cases: [Case; 15] = [
        (symmetric(8), "constexpr_affine_dequantize", "CoreML6", 7, 40.0),
        (linear(8), "constexpr_affine_dequantize", "CoreML6", 7, 45.0),
        (linear(8).with_granularity(Granularity::PerTensor), "constexpr_affine_dequantize", "CoreML6", 7, 45.0),
        (symmetric(4), "constexpr_blockwise_shift_scale", "CoreML8", 9, 20.0),
        (linear(4), "constexpr_blockwise_shift_scale", "CoreML8", 9, 20.0),
        (
            symmetric(4).with_granularity(Granularity::PerBlock(4)),
            "constexpr_blockwise_shift_scale",
            "CoreML8",
            9,
            20.0,
        ),
        (tables(1), "constexpr_lut_to_dense", "CoreML6", 7, 5.0),
        (tables(2), "constexpr_lut_to_dense", "CoreML6", 7, 11.0),
        (tables(3), "constexpr_lut_to_dense", "CoreML8", 9, 17.0),
        (tables(4), "constexpr_lut_to_dense", "CoreML6", 7, 23.0),
        (tables(6), "constexpr_lut_to_dense", "CoreML6", 7, 35.0),
        (tables(8), "constexpr_lut_to_dense", "CoreML6", 7, 44.0),
        (tables(2).with_granularity(Granularity::PerGroupedChannel(8)), "constexpr_lut_to_dense", "CoreML8", 9, 11.0),
        (QuantConfig::linear_lut(4).unwrap(), "constexpr_lut_to_dense", "CoreML6", 7, 20.0),
        (QuantConfig::prune(Pruning::target_sparsity(0.5).unwrap()), "constexpr_sparse_to_dense", "CoreML6", 7, 8.0),
    ];
    let original = small("CoreML5", 6);
    for (config, operation, opset, version, least) in cases {
        let quantized = quantize_weights(&original, &config.with_growth(true)).unwrap();
        let reader = Reader::of(&quantized.model);
        for (name, count, seed) in [("w", 3200, 1), ("w2", 4096, 2)] {
            let (kind, decoded) = reader.named(&quantized.model, name);
            assert_eq!(kind, operation);
            let found = sqnr(&values(count, seed), &decoded);
            assert!(found >= least, "{operation}: {found} dB");
            let reported = report(&quantized, name).distortion.unwrap().sqnr_db();
            assert!((reported - found).abs() < 1e-3, "{operation}: {found} dB, {reported} reported");
            assert_eq!(report(&quantized, name).outcome, Outcome::Converted);
        }
        assert_eq!(report(&quantized, "b2").outcome, Outcome::Kept(Reason::FewDimensions));
        assert_eq!(reader.named(&quantized.model, "b2").1, values(64, 3));
        let Some(Type::MlProgram(program)) = &quantized.model.proto().r#type else { panic!("a program") };
        assert_eq!(program.functions["main"].opset, opset);
        assert_eq!(quantized.model.proto().specification_version, version);
        // And back.
        let back = quantize_weights(&quantized.model, &QuantConfig::dequantize()).unwrap();
        let reader_back = Reader::of(&back.model);
        for name in ["w", "w2"] {
            let (kind, values) = reader_back.named(&back.model, name);
            assert_eq!((kind.as_str(), values), ("const", reader.named(&quantized.model, name).1));
            assert_eq!(report(&back, name).after, StoredForm::Float16);
        }
    }
}

#[test]
fn least_squares_is_never_worse() {
    use coreml_quant::{LinearRange, LinearSymmetric};
    let original = small("CoreML8", 9);
    let error = |range| {
        let quantizer = LinearSymmetric::new(SymmetricBits::FOUR).with_range(range);
        let config = QuantConfig::custom(quantizer).with_granularity(Granularity::PerBlock(4));
        quantize_weights(&original, &config).unwrap().report.sqnr_db().unwrap()
    };
    assert!(error(LinearRange::LeastSquares) > error(LinearRange::MinMax) + 0.5);
}

#[test]
fn tables_of_the_callers_are_stored_by_group() {
    let config = QuantConfig::custom_lut(1, |_, values: &[f32]| {
        let mean = values.iter().map(|value| value.abs()).sum::<f32>() / values.len() as f32;
        Ok((vec![-mean, mean], values.iter().map(|value| u8::from(*value > 0.0)).collect()))
    });
    let config = config.unwrap().with_granularity(Granularity::PerGroupedChannel(4));
    let quantized = quantize_weights(&small("CoreML8", 9), &config).unwrap();
    let form = report(&quantized, "w").after;
    assert!(matches!(form, StoredForm::Program(ProgramForm::Table { tables: 4, .. })), "{form}");
    let decoded = Reader::of(&quantized.model).named(&quantized.model, "w").1;
    let signs = decoded.iter().zip(values(3200, 1)).filter(|(a, b)| a.is_sign_positive() == (b.to_f32() > 0.0)).count();
    assert_eq!(signs, 3200);
}

// What stays.

#[test]
fn what_does_not_change_keeps_its_content() {
    let original = small("CoreML6", 7);
    let only = |weight: &WeightInfo<'_>| weight.layer_type == "linear" && weight.field == "weight";
    let config = QuantConfig::linear_symmetric(8).unwrap().with_selector(only);
    let quantized = quantize_weights(&original, &config).unwrap();
    assert_eq!(report(&quantized, "w").outcome, Outcome::Kept(Reason::NotSelected));
    let mut changed = quantized.model.proto().clone();
    let mut expected = original.proto().clone();
    for model in [&mut changed, &mut expected] {
        let Some(Type::MlProgram(program)) = &mut model.r#type else { panic!("a program") };
        for operation in
            &mut program.functions.get_mut("main").unwrap().block_specializations.get_mut("CoreML6").unwrap().operations
        {
            if operation.outputs[0].name == "w2" {
                operation.r#type.clear();
                operation.attributes.clear();
            }
            for value in operation.attributes.values_mut() {
                if let Some(Stored::BlobFileValue(blob)) = &mut value.value {
                    blob.offset = 0;
                }
            }
        }
    }
    assert_eq!(changed, expected);
    let reader = Reader::of(&quantized.model);
    assert_eq!(reader.named(&quantized.model, "w"), ("const".to_owned(), values(3200, 1)));
    let files = quantized.model.to_package();
    assert_eq!(files.file("Data/com.example/notes.txt").unwrap(), "kept");
    assert_eq!(files.file("Manifest.json").unwrap(), manifest().as_bytes());
}

#[test]
fn a_target_limits_the_forms() {
    let config = QuantConfig::linear_symmetric(4).unwrap().with_target(DeploymentTarget::Ios17);
    let quantized = quantize_weights(&small("CoreML5", 6), &config).unwrap();
    let outcome = report(&quantized, "w").outcome;
    assert_eq!(outcome, Outcome::Kept(Reason::Target { needed: DeploymentTarget::Ios18 }));
    assert_eq!(quantized.model, small("CoreML5", 6));
    let error = quantize_weights(&small("CoreML8", 9), &config).unwrap_err();
    assert!(matches!(error, Error::Opset { .. }), "{error}");
}

#[test]
fn blocks_have_to_divide() {
    let config = QuantConfig::linear_symmetric(4).unwrap().with_granularity(Granularity::PerBlock(32));
    let quantized = quantize_weights(&small("CoreML8", 9), &config).unwrap();
    assert_eq!(report(&quantized, "w").outcome, Outcome::Kept(Reason::Indivisible { axis: 1, len: 8, size: 32 }));
    assert_eq!(report(&quantized, "w2").outcome, Outcome::Converted);
}

#[test]
fn numbers_of_bits_that_programs_do_not_have_are_refused() {
    for config in [QuantConfig::linear(5).unwrap(), QuantConfig::kmeans_lut(7).unwrap(), QuantConfig::int8_matmul()] {
        let error = quantize_weights(&small("CoreML8", 9), &config).unwrap_err();
        assert!(error.to_string().contains("no such form"), "{error}");
    }
}

#[test]
fn masks_stay_and_nan_is_an_error() {
    let with = |value: f16| {
        let mut blobs = Blobs::default();
        let mut mask = vec![f16::ZERO; 4096];
        mask[1000] = value;
        let offset = blobs.add(1, &halves(&mask));
        let operations =
            vec![constant("mask", 10, &LINEAR, offset), operation("add", "y", &[("x", "x"), ("y", "mask")])];
        model(&program(7, &[("main", function("CoreML6", operations))]), blobs)
    };
    let configs = [QuantConfig::linear_symmetric(8).unwrap(), QuantConfig::kmeans_lut(4).unwrap()];
    for config in &configs {
        let quantized = quantize_weights(&with(f16::NEG_INFINITY), config).unwrap();
        assert_eq!(report(&quantized, "mask").outcome, Outcome::Kept(Reason::NonFinite { index: 1000 }));
        let error = quantize_weights(&with(f16::NAN), config).unwrap_err();
        assert!(error.to_string().contains("\"mask\"") && error.to_string().contains("1000"), "{error}");
    }
    let quantized = quantize_weights(&with(f16::MIN), &configs[0]).unwrap();
    assert_eq!(report(&quantized, "mask").outcome, Outcome::Kept(Reason::ScaleRange));
    // A table holds both values as they are.
    let quantized = quantize_weights(&with(f16::MIN), &configs[1]).unwrap();
    assert_eq!(report(&quantized, "mask").distortion.unwrap().max_error(), 0.0);
}

#[test]
fn positions_stay_exact() {
    let mut blobs = Blobs::default();
    let offset = blobs.add(1, &halves(&values(4096, 5)));
    let mut cast = operation("cast", "i", &[("x", "p")]);
    cast.inputs.insert(
        "dtype".to_owned(),
        Argument { arguments: vec![Binding { binding: Some(binding::Binding::Value(text("int32"))) }] },
    );
    let operations =
        vec![constant("p", 10, &LINEAR, offset), cast, operation("gather", "y", &[("x", "x"), ("indices", "i")])];
    let model = model(&program(7, &[("main", function("CoreML6", operations))]), blobs);
    let quantized = quantize_weights(&model, &QuantConfig::kmeans_lut(4).unwrap()).unwrap();
    assert_eq!(report(&quantized, "p").outcome, Outcome::Kept(Reason::Positions { operation: "cast" }));
}

// Structure.

#[test]
fn a_weight_that_functions_share_stays_one_blob() {
    let mut blobs = Blobs::default();
    let offset = blobs.add(1, &halves(&values(4096, 6)));
    let operations =
        || vec![constant("w", 10, &LINEAR, offset), operation("linear", "y", &[("x", "x"), ("weight", "w")])];
    let functions = [("main", function("CoreML8", operations())), ("other", function("CoreML8", operations()))];
    let model = model(&program(9, &functions), blobs);
    let quantized = quantize_weights(&model, &QuantConfig::kmeans_lut(4).unwrap()).unwrap();
    assert_eq!(quantized.report.weights.len(), 1);
    let proto = quantized.model.proto();
    assert_eq!(operations_inputs(proto, "main"), operations_inputs(proto, "other"));
    let reader = Reader::of(&quantized.model);
    // One blob of indices, one table: header, and metadata before each.
    assert_eq!(reader.weights.len(), 64 + 64 + 2048 + 64 + 32);
    assert_eq!(reader.weights[0], 2);
}

fn operations_inputs(model: &proto::Model, name: &str) -> BTreeMap<String, Argument> {
    operations(model, name)[0].inputs.clone()
}

#[test]
fn tied_weights_whose_consumers_disagree_get_one_scale() {
    let mut blobs = Blobs::default();
    let offset = blobs.add(1, &halves(&values(4096, 7)));
    let mut matmul = operation("matmul", "z", &[("x", "y"), ("y", "w")]);
    let no = immediate(1, tensor_value::Value::Bools(RepeatedBools { values: vec![false] }));
    let argument = Argument { arguments: vec![Binding { binding: Some(binding::Binding::Value(no)) }] };
    matmul.inputs.insert("transpose_y".to_owned(), argument);
    let operations =
        vec![constant("w", 10, &LINEAR, offset), operation("gather", "y", &[("x", "w"), ("indices", "x")]), matmul];
    let model = model(&program(7, &[("main", function("CoreML6", operations))]), blobs);
    let config = QuantConfig::linear_symmetric(8).unwrap();
    let quantized = quantize_weights(&model, &config).unwrap();
    assert!(matches!(report(&quantized, "w").after, StoredForm::Program(ProgramForm::Linear { scales: 1, .. })));
    // Asking for one of them is asking for the weight.
    let only = |weight: &WeightInfo<'_>| weight.layer_type == "matmul";
    assert_eq!(quantize_weights(&model, &config.with_selector(only)).unwrap().report.totals().converted, 1);
}

#[test]
fn weights_in_nested_blocks_and_pipelines_are_found() {
    let mut blobs = Blobs::default();
    let first = blobs.add(1, &halves(&values(4096, 8)));
    let second = blobs.add(1, &halves(&values(4096, 9)));
    let mut cond = operation("cond", "c", &[("pred", "x")]);
    cond.blocks = vec![block(vec![
        constant("inner", 10, &LINEAR, first),
        operation("linear", "yes", &[("x", "x"), ("weight", "inner")]),
    ])];
    let nested = program(6, &[("main", function("CoreML5", vec![cond]))]);
    let plain = vec![constant("w", 10, &LINEAR, second), operation("linear", "y", &[("x", "x"), ("weight", "w")])];
    let plain = program(6, &[("main", function("CoreML5", plain))]);
    let pipeline = proto::Model {
        specification_version: 5,
        r#type: Some(Type::Pipeline(Pipeline { models: vec![nested, plain], ..Pipeline::default() })),
        ..proto::Model::default()
    };
    let model = model(&pipeline, blobs);
    let quantized = quantize_weights(&model, &QuantConfig::linear_symmetric(8).unwrap()).unwrap();
    assert_eq!(quantized.report.totals().converted, 2);
    assert_eq!(&*report(&quantized, "inner").place.network, "model/pipeline[0]/main/c/block[0]");
    let proto = quantized.model.proto();
    let Some(Type::Pipeline(pipeline)) = &proto.r#type else { panic!("a pipeline") };
    assert_eq!((proto.specification_version, pipeline.models[1].specification_version), (7, 7));
    let reader = Reader::of(&quantized.model);
    let decoded = reader.weight(&operations(&pipeline.models[1], "main")[0]);
    assert!(sqnr(&values(4096, 9), &decoded) > 40.0);
}

#[test]
fn older_forms_follow_when_a_program_is_raised() {
    let original = small("CoreML6", 7);
    let one = |name: &'static str| move |weight: &WeightInfo<'_>| weight.layer_name == name;
    for config in [
        QuantConfig::linear(8).unwrap(),
        QuantConfig::kmeans_lut(4).unwrap(),
        QuantConfig::prune(Pruning::target_sparsity(0.7).unwrap()),
    ] {
        let old = quantize_weights(&original, &config.with_selector(one("w"))).unwrap().model;
        let expected = Reader::of(&old).named(&old, "w").1;
        let config = QuantConfig::linear_symmetric(4).unwrap().with_selector(one("w2"));
        let raised = quantize_weights(&old, &config).unwrap().model;
        let found = operations(raised.proto(), "main").into_iter().find(|it| it.outputs[0].name == "w").unwrap();
        assert!(found.attributes.len() == 1 && found.inputs.len() >= 2, "{found:?}");
        assert_eq!(Reader::of(&raised).weight(&found), expected);
    }
}

#[test]
fn operations_get_the_parameters_of_newer_opsets_or_keep_the_program() {
    let with = |kind: &str| {
        let mut blobs = Blobs::default();
        let offset = blobs.add(1, &halves(&values(4096, 10)));
        let operations = vec![
            constant("w", 10, &LINEAR, offset),
            operation("linear", "y", &[("x", "x"), ("weight", "w")]),
            operation(kind, "z", &[("x", "y"), ("indices", "x")]),
        ];
        model(&program(7, &[("main", function("CoreML6", operations))]), blobs)
    };
    let config = QuantConfig::linear_symmetric(4).unwrap();
    let raised = quantize_weights(&with("gather"), &config).unwrap().model;
    let gather = operations(raised.proto(), "main").pop().unwrap();
    assert!(gather.inputs.contains_key("validate_indices") && !gather.inputs.contains_key("batch_dims"));
    let kept = quantize_weights(&with("crop_resize"), &config).unwrap();
    assert_eq!(report(&kept, "w").outcome, Outcome::Kept(Reason::CannotBeRaised { operation: "crop_resize" }));
}

// Packages.

#[test]
fn saving_and_opening_a_package() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.mlpackage");
    let original = small("CoreML6", 7);
    original.save(&path).unwrap();
    assert_eq!(Model::open(&path).unwrap(), original);
    let config = QuantConfig::kmeans_lut(4).unwrap();
    let quantized = quantize_weights(&original, &config).unwrap().model;
    // Over the old one.
    quantized.save(&path).unwrap();
    assert_eq!(Model::open(&path).unwrap(), quantized);
    let second = folder.path().join("second.mlpackage");
    quantize_to_file(&original, &config, &second, &SaveOptions::default().sync(true)).unwrap();
    assert_eq!(Model::open(&second).unwrap().to_package().into_files(), quantized.to_package().into_files());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    let error = quantized.save(folder.path().join("small.mlmodel")).unwrap_err();
    assert!(matches!(error, Error::NeedsPackage { .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn links_are_read_through() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.mlpackage");
    let original = small("CoreML6", 7);
    original.save(&path).unwrap();
    let elsewhere = folder.path().join("elsewhere.bin");
    fs::rename(path.join(WEIGHTS), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, path.join(WEIGHTS)).unwrap();
    let model = Model::open(&path).unwrap();
    assert_eq!(model, original);
    quantize_weights(&model, &QuantConfig::linear(8).unwrap()).unwrap().model.save(&path).unwrap();
    assert_eq!(fs::read(&elsewhere).unwrap().len(), original.to_package().file(WEIGHTS).unwrap().len());
}

#[test]
fn a_missing_weight_file_is_an_error_only_when_it_is_needed() {
    let original = small("CoreML6", 7);
    let files = original.to_package().into_files().into_iter().filter(|(path, _)| path != WEIGHTS);
    let model = Model::from_package(Package::new(files).unwrap()).unwrap();
    assert_eq!(model.kind(), "mlProgram");
    let error = quantize_weights(&model, &QuantConfig::linear(8).unwrap()).unwrap_err();
    assert!(error.to_string().contains("weight.bin is missing"), "{error}");
}

#[test]
fn a_network_goes_into_a_package_and_out_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let network = proto::Model {
        specification_version: 4,
        r#type: Some(Type::NeuralNetwork(proto::NeuralNetwork::default())),
        ..proto::Model::default()
    };
    let model = Model::from_proto(network);
    let (package, file) = (folder.path().join("network.mlpackage"), folder.path().join("network.mlmodel"));
    model.save(&package).unwrap();
    let opened = Model::open(&package).unwrap();
    opened.save(&file).unwrap();
    assert_eq!(Model::open(&file).unwrap().proto(), model.proto());
    assert_eq!(opened.to_package().into_files(), model.to_package().into_files());
    let error = quantize_weights(&model, &QuantConfig::float16().with_target(DeploymentTarget::Ios16)).unwrap_err();
    assert!(error.to_string().contains("target"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in the weight file, the answer is a result or an error.
    #[test]
    fn damaged_weight_files(flips in prop::collection::vec((0_usize..8192, any::<u8>()), 1..8), cut in 0_usize..15_000) {
        let original = small("CoreML6", 7);
        let mut files = original.to_package().into_files();
        let mut weights = files[WEIGHTS].to_vec();
        for (at, byte) in flips {
            let at = at % weights.len();
            weights[at] = byte;
        }
        weights.truncate(cut.max(1));
        files.insert(WEIGHTS.to_owned(), weights.into());
        let model = Model::from_package(Package::new(files).unwrap()).unwrap();
        let _ = quantize_weights(&model, &QuantConfig::linear_symmetric(8).unwrap());
        let _ = quantize_weights(&model, &QuantConfig::kmeans_lut(2).unwrap());
    }
}

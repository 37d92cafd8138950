//! Every way to fail, by the variant and its fields: never by its text.

mod common;

use std::fs;
use std::path::Path;

use common::digits;
use common::kinds::*;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::quantization_params::QuantizationType;
use coreml_quant::proto::{
    Convolution3DLayerParams, ConvolutionLayerParams, LinearQuantizationParams, NeuralNetworkLayer, WeightParams,
};
use coreml_quant::{
    AdvancedSelector, Codes, ConfigError, Error, ManifestError, Mode, Model, Nbits, NotAModel, Payload, Place,
    QuantConfig, QuantizeContext, QuantizeError, Quantizer, Refused, SaveOptions, ShapeError, StoredForm,
    SymmetricBits, WeightError, WeightInfo, WeightSpec, WeightView, quantize_to_file, quantize_weights,
};

/// Asserts on a pattern, and says what came instead.
macro_rules! assert_matches {
    ($value:expr, $pattern:pat $(if $guard:expr)? $(,)?) => {
        match $value {
            $pattern $(if $guard)? => {}
            other => panic!("{other:?} is not {}", stringify!($pattern $(if $guard)?)),
        }
    };
}

fn opened(path: &Path) -> NotAModel {
    match Model::open(path) {
        Err(Error::NotAModelFile { path: named, what }) => {
            assert_eq!(named, path);
            what
        }
        other => panic!("{other:?}"),
    }
}

// Files.

#[test]
fn files_that_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing.mlmodel");
    assert_matches!(
        Model::open(&path),
        Err(Error::Io { path: named, cause }) if named == path && cause.kind() == std::io::ErrorKind::NotFound
    );
    // What is named is what was asked for, not the temporary file that could not be made.
    let path = folder.path().join("missing/digits.mlmodel");
    let to_file = quantize_to_file(&digits(), &QuantConfig::float16(), &path, &SaveOptions::default());
    for error in [digits().save(&path).unwrap_err(), to_file.unwrap_err()] {
        assert_eq!(error.to_string(), format!("{}: there is no such folder", path.display()));
        assert_matches!(error, Error::Io { path: named, cause }
            if named == path && cause.kind() == std::io::ErrorKind::NotFound);
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = digits().save(file.join("digits.mlmodel")).unwrap_err().to_string();
    assert!(!error.contains("coreml-quant-"), "{error}");
    fs::remove_file(&file).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn folders() {
    let folder = tempfile::tempdir().unwrap();
    for (name, is_it) in [
        ("model.mlmodelc", (|what| matches!(what, NotAModel::Compiled)) as fn(NotAModel) -> bool),
        ("model.mlmodel", |what| matches!(what, NotAModel::Folder)),
        ("model", |what| matches!(what, NotAModel::Folder)),
    ] {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        assert!(is_it(opened(&path)), "{name}");
    }
    let package = folder.path().join("model.mlpackage");
    fs::create_dir(&package).unwrap();
    assert_matches!(Model::open(&package), Err(Error::Package { cause: ManifestError::Missing, .. }));
}

#[test]
fn bytes_that_are_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes.mlmodel");
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        // Bytes from memory fail alike.
        let from_file = opened(&path);
        match Model::from_bytes(bytes.to_vec()) {
            Err(Error::NotAModel(what)) => assert_eq!(format!("{what:?}"), format!("{from_file:?}")),
            other => panic!("{other:?}"),
        }
        from_file
    };
    assert_matches!(open(b""), NotAModel::Empty);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    assert_matches!(open(pointer), NotAModel::LfsPointer);
    assert_matches!(open(b"book\0\0\0\0mark\0\0\0\08\0\0\0"), NotAModel::Alias);
    assert_matches!(open(b"version 1 of nothing\n"), NotAModel::Text { start } if start == "version 1 of nothing");
    assert_matches!(open(b"<!DOCTYPE html>\r\n<html>"), NotAModel::Text { start } if start == "<!DOCTYPE html>");
    let whole = digits().to_bytes();
    for len in [whole.len() - 1, whole.len() / 2, 100] {
        assert_matches!(open(&whole[..len]), NotAModel::Damaged { .. });
    }
    assert_matches!(open(&[0xff; 40]), NotAModel::Damaged { .. });
    // Only the version.
    assert_matches!(open(&[0x08, 99]), NotAModel::NoType { version: 99 });
}

#[test]
fn models_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.mlmodel");
    let nested = pipeline(vec![model_of(Type::Normalizer(Default::default()), 1)]);
    for (kind, model) in [
        ("treeEnsembleClassifier", Type::TreeEnsembleClassifier(Default::default())),
        ("identity", Type::Identity(Default::default())),
        ("pipeline", Type::Pipeline(nested)),
        ("pipelineClassifier", Type::PipelineClassifier(Default::default())),
    ] {
        let model = Model::from_proto(model_of(model, 6));
        for config in [QuantConfig::float16(), QuantConfig::dequantize()] {
            assert_matches!(quantize_weights(&model, &config), Err(Error::NoNetwork { kind: named }) if named == kind);
            let to_file = quantize_to_file(&model, &config, &path, &SaveOptions::default());
            assert_matches!(to_file, Err(Error::NoNetwork { kind: named }) if named == kind);
        }
    }
    let program = Model::from_proto(model_of(Type::MlProgram(Default::default()), 6));
    let to_file = quantize_to_file(&program, &QuantConfig::float16(), &path, &SaveOptions::default());
    assert_matches!(to_file, Err(Error::NeedsPackage { .. }));
    assert_matches!(program.save(&path), Err(Error::NeedsPackage { .. }));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

// Weights.

/// Quantizes a layer inside a branch of a pipeline's second model, which fails; checks the place, and that no file is
/// written.
fn fail_with(layer: NeuralNetworkLayer, config: &QuantConfig) -> (Place, WeightError) {
    // Only the layer's own matrix is quantized.
    let config = &config.clone().with_selector(|weight: &WeightInfo<'_>| weight.field == "weights");
    let good = kind("bias").layer(&mut |_, units, _| Some(float32(units)));
    let branch = coreml_quant::proto::BranchLayerParams {
        if_branch: Some(network(vec![good.clone()])),
        else_branch: Some(network(vec![good.clone(), layer])),
    };
    let branch = NeuralNetworkLayer { name: "cond".into(), layer: Some(Layer::Branch(branch)), ..Default::default() };
    let members = vec![
        model_of(Type::NeuralNetwork(network(vec![good])), 1),
        model_of(Type::NeuralNetwork(network(vec![branch])), 1),
    ];
    let model = Model::from_proto(model_of(Type::Pipeline(pipeline(members)), 1));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.mlmodel");
    fs::write(&path, "old").unwrap();
    let to_file = quantize_to_file(&model, config, &path, &SaveOptions::default());
    assert!(fs::read(&path).unwrap() == b"old", "an error must leave the file as it was");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "an error must leave nothing behind");

    match (quantize_weights(&model, config), to_file) {
        (
            Err(Error::Weight { place, cause: source }),
            Err(Error::Weight { place: place_to_file, cause: source_to_file }),
        ) => {
            assert_eq!(&*place.network, "model/pipeline[1]/cond/elseBranch");
            assert_eq!(place, place_to_file);
            assert_eq!(format!("{source:?}"), format!("{source_to_file:?}"));
            (*place, source)
        }
        (Err(Error::Unrepresentable { mut refused }), Err(Error::Unrepresentable { refused: refused_to_file })) => {
            assert_eq!(format!("{refused:?}"), format!("{refused_to_file:?}"));
            assert_eq!(refused.len(), 1);
            let Refused { place, cause: source, .. } = refused.remove(0);
            assert_eq!(&*place.network, "model/pipeline[1]/cond/elseBranch");
            (place, WeightError::Quantize(source))
        }
        other => panic!("{other:?}"),
    }
}

/// An innerProduct layer of 6 x 5 whose matrix is `params`.
fn matrix(params: Option<WeightParams>) -> NeuralNetworkLayer {
    let mut layer = kind("innerProduct").layer(&mut |field, units, _| match field {
        "weights" => params.clone(),
        _ => Some(float32(units)),
    });
    layer.name = "dense".into();
    layer
}

/// The error for a matrix, which has to be at its place.
fn fail_in_matrix(params: Option<WeightParams>, config: &QuantConfig) -> WeightError {
    let (place, error) = fail_with(matrix(params), config);
    assert_eq!((&*place.layer, place.layer_type, &*place.field), ("dense", "innerProduct", "weights"));
    error
}

fn bits(mut params: WeightParams, nbits: u64) -> WeightParams {
    params.quantization.as_mut().unwrap().number_of_bits = nbits;
    params
}

#[test]
fn stored_weights_that_do_not_fit_their_layer() {
    let config = QuantConfig::dequantize();
    let fail = |params| fail_in_matrix(Some(params), &config);
    assert_matches!(fail_in_matrix(None, &config), WeightError::Missing { expected: 30 });
    assert_matches!(fail(WeightParams::default()), WeightError::Missing { expected: 30 });
    assert_matches!(
        fail(WeightParams { float16_value: vec![0; 60].into(), ..float32(30) }),
        WeightError::SeveralForms { forms } if forms == ["floatValue", "float16Value"]
    );
    assert_matches!(
        fail(float32(29)),
        WeightError::Length { field: "floatValue", unit: "values", found: 29, expected: 30 }
    );
    assert_matches!(
        fail(float16(31)),
        WeightError::Length { field: "float16Value", unit: "bytes", found: 62, expected: 60 }
    );
    assert_matches!(
        fail(linear(3, 40, 1, 1)),
        WeightError::Length { field: "rawValue", unit: "bytes", found: 15, expected: 12 }
    );
    assert_matches!(
        fail(int8(31, 1, 0)),
        WeightError::Length { field: "int8RawValue", unit: "bytes", found: 31, expected: 30 }
    );
    assert_matches!(
        fail(WeightParams { quantization: None, ..linear(8, 30, 1, 1) }),
        WeightError::NoQuantization { field: "rawValue", missing: "quantization" }
    );
    assert_matches!(
        fail(WeightParams { raw_value: Default::default(), int8_raw_value: vec![0; 30].into(), ..table(8, 30, 256) }),
        WeightError::NoQuantization { field: "int8RawValue", missing: "linearQuantization" }
    );
    assert_matches!(fail(bits(linear(8, 30, 1, 1), 9)), WeightError::Bits { found: 9, .. });
    assert_matches!(fail(bits(int8(30, 1, 0), 7)), WeightError::Bits { found: 7, .. });
    assert_matches!(
        fail(linear(8, 30, 5, 0)),
        WeightError::ScaleCount { field: "scale", found: 5, expected } if expected == [1, 6]
    );
    assert_matches!(
        fail(linear(8, 30, 6, 1)),
        WeightError::ScaleCount { field: "bias", found: 1, expected } if expected == [0, 6]
    );
    assert_matches!(
        fail(int8(30, 1, 1)),
        WeightError::ScaleCount { field: "bias", found: 1, expected } if expected == [0]
    );
    assert_matches!(
        fail(table(4, 30, 15)),
        WeightError::Quantize(QuantizeError::TableLength { found: 15, expected: 16 })
    );
    let mut infinite = linear(8, 30, 6, 6);
    if let Some(QuantizationType::LinearQuantization(LinearQuantizationParams { bias, .. })) =
        infinite.quantization.as_mut().and_then(|quantization| quantization.quantization_type.as_mut())
    {
        bias[4] = f32::NEG_INFINITY;
    }
    assert_matches!(
        fail(infinite),
        WeightError::NonFiniteParameter { field: "bias", index: 4, value: f32::NEG_INFINITY }
    );
}

#[test]
fn sizes_that_make_no_shape() {
    let fail = |layer| {
        let layer = NeuralNetworkLayer { layer: Some(layer), ..Default::default() };
        match fail_with(layer, &QuantConfig::float16()) {
            (place, WeightError::Shape(error)) => {
                assert_eq!(place.field, "weights");
                error
            }
            other => panic!("{other:?}"),
        }
    };
    let convolution = ConvolutionLayerParams {
        output_channels: 6,
        kernel_channels: 4,
        weights: Some(float32(6)),
        ..Default::default()
    };
    assert_eq!(
        fail(Layer::Convolution(ConvolutionLayerParams { kernel_size: vec![3, 3, 3], ..convolution.clone() })),
        ShapeError::KernelSize { len: 3 }
    );
    assert_eq!(
        fail(Layer::Convolution(ConvolutionLayerParams { is_deconvolution: true, n_groups: 4, ..convolution.clone() })),
        ShapeError::Groups { what: "outputChannels", value: 6, groups: 4 }
    );
    let huge = 1 << 40;
    assert_eq!(
        fail(Layer::Convolution(ConvolutionLayerParams {
            output_channels: huge,
            kernel_channels: huge,
            ..convolution
        })),
        ShapeError::Overflow { shape: vec![huge, huge, 3, 3] }
    );
    let convolution = Convolution3DLayerParams {
        output_channels: 6,
        input_channels: 5,
        n_groups: 2,
        kernel_depth: 1,
        kernel_height: 1,
        kernel_width: 1,
        weights: Some(float32(6)),
        ..Default::default()
    };
    assert_eq!(
        fail(Layer::Convolution3d(convolution.clone())),
        ShapeError::Groups { what: "inputChannels", value: 5, groups: 2 }
    );
    assert_eq!(
        fail(Layer::Convolution3d(Convolution3DLayerParams { input_channels: 4, kernel_depth: -2, ..convolution })),
        ShapeError::Negative { what: "kernelDepth", value: -2 }
    );
}

fn modes_that_read_values() -> Vec<(Mode, QuantConfig)> {
    let modes = [Mode::Float16, Mode::Linear, Mode::LinearSymmetric, Mode::LinearLut, Mode::KmeansLut];
    let config = |mode: Mode| {
        let nbits = (!mode.nbits().is_empty()).then_some(4);
        QuantConfig::from_mode(mode, nbits).unwrap().with_growth(true)
    };
    let mut modes: Vec<_> = modes.into_iter().map(|mode| (mode, config(mode))).collect();
    let zeros = |nbits: u32, values: &[f32]| Ok((vec![0.0; 1_usize << nbits], vec![0; values.len()]));
    modes.push((Mode::CustomLut, QuantConfig::custom_lut(4, zeros).unwrap().with_growth(true)));
    modes
}

#[test]
fn values_that_are_not_finite() {
    for (mode, config) in modes_that_read_values() {
        for bad in [f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 17, 29] {
                let mut values = values(30);
                values[at] = bad;
                match fail_in_matrix(Some(WeightParams::from_floats(&values)), &config) {
                    WeightError::Quantize(QuantizeError::NonFinite { index, value }) => {
                        assert_eq!((index, value), (at, bad), "{mode}");
                    }
                    other => panic!("{mode}: {other:?}"),
                }
            }
        }
        let mut values = values(30);
        values[29] = f32::NAN;
        assert_matches!(
            fail_in_matrix(Some(WeightParams::from_floats(&values)), &config),
            WeightError::Quantize(QuantizeError::NonFinite { index: 29, value }) if value.is_nan()
        );
    }
    // int8 takes layers without bias only.
    let mut values = values(30);
    values[7] = f32::NAN;
    let mut layer = matrix(Some(WeightParams::from_floats(&values)));
    if let Some(Layer::InnerProduct(params)) = &mut layer.layer {
        params.has_bias = false;
    }
    assert_matches!(
        fail_with(layer, &QuantConfig::int8_matmul()),
        (_, WeightError::Quantize(QuantizeError::NonFinite { index: 7, .. }))
    );
}

#[test]
fn values_beyond_float16() {
    for bad in [65520.0, -1e30] {
        let mut values = values(30);
        values[11] = bad;
        assert_matches!(
            fail_in_matrix(Some(WeightParams::from_floats(&values)), &QuantConfig::float16()),
            WeightError::Quantize(QuantizeError::Float16Range { index: 11, value }) if value == bad
        );
    }
    // The largest half is a half.
    let mut values = values(30);
    values[11] = 65504.0;
    let layer = matrix(Some(WeightParams::from_floats(&values)));
    quantize_weights(&model(vec![layer]), &QuantConfig::float16()).unwrap();
}

#[test]
fn ranges_beyond_float32() {
    let mut values = values(30);
    // Row 3 of the 6 x 5 matrix.
    (values[15], values[19]) = (-3e38, 3e38);
    let config = QuantConfig::linear(1).unwrap().with_growth(true);
    assert_matches!(
        fail_in_matrix(Some(WeightParams::from_floats(&values)), &config),
        WeightError::Quantize(QuantizeError::ScaleRange { channel: 3, .. })
    );
}

// Quantizers of the caller's.

/// A table of the caller's and the codes into it.
type Table = Result<(Vec<f32>, Vec<u8>), QuantizeError>;

/// The error of a function that makes 2-bit tables.
fn custom_lut(function: fn(u32, &[f32]) -> Table) -> QuantizeError {
    let config = QuantConfig::custom_lut(2, function).unwrap().with_growth(true);
    match fail_in_matrix(Some(float32(30)), &config) {
        WeightError::Quantize(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tables_of_the_caller() {
    assert_matches!(
        custom_lut(|_, values| Ok((vec![0.0; 5], vec![0; values.len()]))),
        QuantizeError::TableLength { found: 5, expected: 4 }
    );
    let entries = |values: &[f32]| Ok((vec![0.0, 1.0, f32::NAN, 2.0], vec![0; values.len()]));
    let config = QuantConfig::custom_lut(2, move |_, values| entries(values)).unwrap().with_growth(true);
    assert_matches!(
        fail_in_matrix(Some(float32(30)), &config),
        WeightError::NonFiniteParameter { index: 2, value, .. } if value.is_nan()
    );
    assert_matches!(
        custom_lut(|_, values| Ok((vec![0.0; 4], vec![0; values.len() - 1]))),
        QuantizeError::CodeCount { found: 29, expected: 30 }
    );
    assert_matches!(
        custom_lut(|_, values| Ok((vec![0.0; 4], (0..values.len() as u8).collect()))),
        QuantizeError::CodeRange { index: 4, code: 4, nbits: 2 }
    );
    assert_matches!(
        custom_lut(|_, _| Err(QuantizeError::Other("no table today".into()))),
        QuantizeError::Other(error) if error.to_string() == "no table today"
    );
    assert_matches!(
        Codes::pack(&[0, 1, 8], Nbits::new(3).unwrap()),
        Err(QuantizeError::CodeRange { index: 2, code: 8, nbits: 3 })
    );
}

/// Announces one form and returns a payload, whatever the weight is.
#[derive(Clone, Debug)]
struct Liar {
    announced: StoredForm,
    payload: Payload,
}

impl Quantizer for Liar {
    fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
        self.announced
    }

    fn quantize(&self, _: WeightView<'_>, _: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        Ok(self.payload.clone())
    }
}

/// Eight-bit codes for the matrix of the tests.
fn eight_bits(scale: &[f32], bias: &[f32]) -> Payload {
    let codes = Codes::pack(&[0; 30], Nbits::EIGHT).unwrap();
    Payload::Linear { codes, scale: scale.to_vec(), bias: bias.to_vec() }
}

fn refused(announced: StoredForm, payload: Payload) -> WeightError {
    let config = QuantConfig::custom(Liar { announced, payload }).with_growth(true);
    fail_in_matrix(Some(float32(30)), &config)
}

#[test]
fn quantizers_of_the_caller() {
    let eight = |scales, biases| StoredForm::Linear { nbits: Nbits::EIGHT, scales, biases };
    // Forms that Core ML does not read there.
    for form in [eight(2, 0), eight(5, 5), eight(1, 6), eight(6, 1), eight(0, 0)] {
        assert_matches!(
            refused(form, eight_bits(&[1.0], &[])),
            WeightError::NotAllowed { form: named } if named == form
        );
    }
    // Another form than announced.
    for announced in [StoredForm::Float16, eight(1, 1), eight(6, 0), StoredForm::LookupTable { nbits: Nbits::EIGHT }] {
        assert_matches!(
            refused(announced, eight_bits(&[1.0], &[])),
            WeightError::OtherForm { announced: named, returned } if named == announced && returned == eight(1, 0)
        );
    }
}

/// What a quantizer returns is not written unless every part of it is right: a byte too many would shift the rest of the
/// file.
#[test]
fn payloads_of_the_caller() {
    for len in [0, 59, 61, 62] {
        assert_matches!(
            refused(StoredForm::Float16, Payload::Float16(vec![0; len])),
            WeightError::Length { field: "float16Value", expected: 60, found, .. } if found == len
        );
    }
    for len in [0, 119, 121, 124] {
        // From float16, so that float32 is another form.
        let config =
            QuantConfig::custom(Liar { announced: StoredForm::Float32, payload: Payload::Float32(vec![0; len]) });
        let halves = WeightParams { float16_value: vec![0; 60].into(), ..WeightParams::default() };
        let error = fail_in_matrix(Some(halves), &config.with_growth(true));
        assert_matches!(error, WeightError::Length { field: "floatValue", .. });
    }
    let eight = |scales, biases| StoredForm::Linear { nbits: Nbits::EIGHT, scales, biases };
    assert_matches!(
        refused(eight(1, 0), eight_bits(&[f32::NAN], &[])),
        WeightError::NonFiniteParameter { field: "scale", index: 0, .. }
    );
    assert_matches!(
        refused(eight(1, 1), eight_bits(&[1.0], &[f32::INFINITY])),
        WeightError::NonFiniteParameter { field: "bias", index: 0, .. }
    );
    assert_matches!(
        refused(
            eight(1, 0),
            Payload::Linear { codes: Codes::pack(&[0; 31], Nbits::EIGHT).unwrap(), scale: vec![1.0], bias: vec![] }
        ),
        WeightError::Quantize(QuantizeError::CodeCount { found: 31, expected: 30 })
    );
    // The old file stays.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.mlmodel");
    let model = digits();
    model.save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let liar = Liar { announced: StoredForm::Float16, payload: Payload::Float16(vec![0; 61]) };
    let saved = quantize_to_file(&model, &QuantConfig::custom(liar), &path, &SaveOptions::default());
    assert_matches!(saved, Err(Error::Weight { .. }));
    assert!(fs::read(&path).unwrap() == before);
}

// Chains.

/// What an error says is said once, however much of its chain is printed.
fn assert_says_it_once(error: &dyn std::error::Error) {
    let said = error.to_string();
    assert!(!said.is_empty());
    let mut next = error.source();
    while let Some(source) = next {
        assert!(!said.contains(&source.to_string()), "{said:?} repeats {source}");
        next = source.source();
    }
}

#[test]
fn chains_do_not_repeat_themselves() {
    let io = std::io::Error::other("the disk is full");
    let weight = || WeightError::Quantize(QuantizeError::Other("no table today".into()));
    let place = Box::new(fail_with(matrix(None), &QuantConfig::dequantize()).0);
    let damaged = Model::from_bytes(vec![0x08, 0x80, 0x80]).unwrap_err();
    let malformed = Model::from_bytes(b"\x08\x04\x12\x04\xa2\x06\x01\xff".to_vec()).unwrap_err();
    let network = NotAModel::Text { start: "version".to_owned() };
    let errors = [
        Error::Io { path: "model.mlmodel".into(), cause: io },
        Error::NotAModelFile { path: "model.mlmodel".into(), what: network },
        Error::Weight { place, cause: weight() },
        Error::NoNetwork { kind: "glmRegressor" },
        Error::EncodedLength { index: 1, expected: 2, found: 3 },
        Error::DifferentNetworks { original: "one".to_owned(), other: "two".to_owned() },
        Error::PlanMismatch { index: 0, found: "one".to_owned(), planned: "two".to_owned() },
        Error::TargetTooSmall { target: 1, least: 2 },
        Error::Cancelled,
        Error::Config(QuantConfig::linear(9).unwrap_err()),
        damaged,
        malformed,
    ];
    for error in &errors {
        assert_says_it_once(error);
    }
    assert!(errors[0].to_string().contains("the disk is full"));
    assert!(errors[2].to_string().contains("no table today"));
    assert_says_it_once(&weight());
    assert_says_it_once(&WeightError::Shape(ShapeError::KernelSize { len: 3 }));
}

// Configurations.

#[test]
fn numbers_of_bits() {
    for nbits in [0, 9, 16, u32::MAX] {
        for (mode, config) in [
            ("linear", QuantConfig::linear(nbits)),
            ("linear_symmetric", QuantConfig::linear_symmetric(nbits)),
            ("linear_lut", QuantConfig::linear_lut(nbits)),
            ("kmeans_lut", QuantConfig::kmeans_lut(nbits)),
            ("custom_lut", QuantConfig::custom_lut(nbits, |_, _| Ok((vec![], vec![])))),
        ] {
            assert_matches!(config, Err(ConfigError::Bits { mode: named, found, .. }) if (named, found) == (mode, nbits));
        }
    }
    assert_matches!(
        QuantConfig::linear_symmetric(1),
        Err(ConfigError::Bits { mode: "linear_symmetric", allowed: "2 to 8", found: 1 })
    );
    // There is no such number of bits.
    assert_matches!(
        SymmetricBits::try_from(Nbits::ONE),
        Err(ConfigError::Bits { mode: "linear_symmetric", allowed: "2 to 8", found: 1 })
    );
    assert_eq!((SymmetricBits::new(1), SymmetricBits::new(9)), (None, None));
    assert_eq!(SymmetricBits::all().map(u32::from).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8]);
    for mode in Mode::all().iter().filter(|mode| !mode.nbits().is_empty() && **mode != Mode::CustomLut) {
        assert_matches!(
            QuantConfig::from_mode(*mode, None),
            Err(ConfigError::NoBits { mode: named, .. }) if named == mode.name()
        );
    }
    assert_matches!(
        QuantConfig::from_mode(Mode::Float16, Some(8)),
        Err(ConfigError::Bits { mode: "float16", found: 8, .. })
    );
    assert_matches!(
        QuantConfig::from_mode(Mode::Dequantize, Some(32)),
        Err(ConfigError::Bits { mode: "dequantize", found: 32, .. })
    );
    assert_matches!(QuantConfig::from_mode(Mode::CustomLut, Some(4)), Err(ConfigError::NeedsFunction));
}

#[test]
fn names() {
    assert_matches!("kmeans".parse::<Mode>(), Err(ConfigError::UnknownMode { found, .. }) if found == "kmeans");
    assert_matches!("Linear".parse::<Mode>(), Err(ConfigError::UnknownMode { .. }));
    for mode in Mode::all() {
        assert_eq!(mode.to_string().parse::<Mode>(), Ok(*mode));
    }
    assert_matches!(
        AdvancedSelector::new(["bias", "softmax"]),
        Err(ConfigError::UnknownLayerType { found, .. }) if found == "softmax"
    );
    // Errors are one type to the caller, whichever part they come from.
    assert_matches!(Error::from(ConfigError::NeedsFunction), Error::Config(ConfigError::NeedsFunction));
}

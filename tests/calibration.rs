//! Calibration through the public face: every kind of layer it reaches, what it reports, and what it refuses.

mod common;
mod evaluate;
mod networks;

use std::ops::ControlFlow;

use common::digits;
use coreml_quant::predict::{Features, Predictor};
use coreml_quant::proto::convolution_layer_params::ConvolutionPaddingType;
use coreml_quant::proto::feature_type::Type as FeatureKind;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{
    ActivationParams, ActivationSigmoid, ActivationTanh, ArrayFeatureType, EmbeddingLayerParams, FeatureType,
    GruLayerParams, NeuralNetworkLayer, SimpleRecurrentLayerParams, ValidPadding, activation_params,
};
use coreml_quant::{
    Biases, Calibration, CalibrationReport, CalibrationWarning, Codes, Error, Model, Nbits, Needs, NotCalibrated,
    Payload, QuantConfig, QuantizeContext, QuantizeError, Quantizer, Statistics, StoredForm, WeightSpec, WeightView,
    check, quantize_weights,
};
use ndarray::{ArrayD, IxDyn};
use networks::*;

/// Values that are mixtures of three hidden ones, with means: inputs whose errors can make up for each other.
fn samples(shape: &[usize], count: u64) -> Vec<Features> {
    let len: usize = shape.iter().product();
    let sample = |seed| {
        let hidden = evaluate::Tensor::noise(&[3], seed).values;
        let own = evaluate::Tensor::noise(&[len], 1000 + seed).values;
        let value = |(at, own): (usize, &f64)| {
            let shared: f64 = hidden.iter().enumerate().map(|(h, value)| value * ((at * (h + 2)) as f64).sin()).sum();
            (0.4 + shared + 0.3 * own) as f32
        };
        let values = own.iter().enumerate().map(value).collect();
        Features::new().with("x", ArrayD::from_shape_vec(IxDyn(shape), values).unwrap())
    };
    (0..count).map(sample).collect()
}

fn with_shape(layers: Vec<NeuralNetworkLayer>, shape: &[usize]) -> Model {
    let mut model = model(layers, &["x"], &["y"]);
    let description = model.proto_mut().description.as_mut().unwrap();
    for (feature, shape) in [(&mut description.input[0], shape), (&mut description.output[0], &[])] {
        let array = ArrayFeatureType { shape: shape.iter().map(|&size| size as i64).collect(), ..Default::default() };
        feature.r#type = Some(FeatureType { r#type: Some(FeatureKind::MultiArrayType(array)), ..Default::default() });
    }
    model
}

fn outputs(model: &Model, samples: &[Features]) -> Vec<f32> {
    let predictor = Predictor::new(model).unwrap();
    let run = |sample| predictor.predict(sample).unwrap().array("y").unwrap().iter().copied().collect::<Vec<_>>();
    samples.iter().flat_map(run).collect()
}

/// The noise that quantizing adds to the outputs, relative to the signal.
fn noise(model: &Model, other: &Model, samples: &[Features]) -> f64 {
    let (expected, found) = (outputs(model, samples), outputs(other, samples));
    let square = |value: f32| f64::from(value).powi(2);
    let noise: f64 = expected.iter().zip(&found).map(|(expected, found)| square(expected - found)).sum();
    noise / expected.iter().map(|&value| square(value)).sum::<f64>()
}

/// Quantizes with and without samples, and holds the outputs on other samples against those of the float network.
fn assert_gains(what: &str, model: &Model, config: &QuantConfig, samples: &[Features], gain: f64) -> CalibrationReport {
    let (calibration, test) = samples.split_at(samples.len() / 2);
    let config = config.clone().with_growth(true);
    let free = quantize_weights(model, &config).unwrap().model;
    let calibration = Calibration::new(calibration.iter().cloned());
    let calibrated = quantize_weights(model, &config.with_calibration(calibration)).unwrap();
    assert!(check(&calibrated.model).is_empty(), "{what}");
    let (before, after) = (noise(model, &free, test), noise(model, &calibrated.model, test));
    let report = calibrated.report.calibration.unwrap();
    assert!(after < gain * before, "{what}: {before:.5} without samples, {after:.5} with\n{report}");
    for weight in &report.weights {
        assert_eq!(weight.not_calibrated, None, "{what}: {report}");
        assert!(weight.positions > 0 && weight.inputs > 0, "{what}");
        assert!(weight.snr_db.unwrap() > weight.data_free_db.unwrap(), "{what}: {report}");
    }
    report
}

fn two_bits() -> [QuantConfig; 3] {
    [QuantConfig::kmeans_lut(2).unwrap(), QuantConfig::linear(2).unwrap(), QuantConfig::linear_symmetric(3).unwrap()]
}

#[test]
fn convolutions_of_all_kinds() {
    let io = ("x", "y");
    let valid = || Some(ConvolutionPaddingType::Valid(ValidPadding::default()));
    let kinds = [
        ("plain", convolution("c", io, [4, 6], |p| p.has_bias = true)),
        ("without bias", convolution("c", io, [4, 6], |_| {})),
        ("in groups", convolution("c", io, [4, 6], |p| p.n_groups = 2)),
        ("depthwise", convolution("c", io, [4, 4], |p| p.n_groups = 4)),
        ("dilated and strided", {
            convolution("c", io, [4, 6], |p| {
                (p.dilation_factor, p.stride, p.convolution_padding_type) = (vec![2, 1], vec![1, 2], valid());
            })
        }),
        ("transposed", {
            convolution("c", io, [4, 6], |p| {
                (p.is_deconvolution, p.stride, p.convolution_padding_type) = (true, vec![2, 2], valid());
            })
        }),
        ("transposed, in groups", {
            convolution("c", io, [4, 6], |p| {
                (p.is_deconvolution, p.n_groups, p.convolution_padding_type) = (true, 2, valid());
            })
        }),
    ];
    let samples = samples(&[4, 9, 8], 40);
    for (what, layer) in kinds {
        let model = with_shape(vec![layer], &[4, 9, 8]);
        for config in two_bits() {
            let report = assert_gains(what, &model, &config, &samples, 0.9);
            assert_eq!((report.samples, report.held_back, report.synthetic), (20, 4, false));
            let outputs = report.outputs.unwrap();
            assert!(outputs.snr_db > outputs.data_free_db);
            assert_eq!(outputs.agreement, None);
        }
    }
}

#[test]
fn later_layers_undo_what_earlier_ones_do() {
    let layers = vec![
        convolution("c1", ("x", "a"), [3, 12], |p| p.has_bias = true),
        relu("r", ("a", "b")),
        convolution("c2", ("b", "c"), [12, 12], |_| {}),
        relu("r2", ("c", "d")),
        inner_product("p", ("d", "y"), [12 * 36, 7], true),
    ];
    let mut layers = layers;
    layers.insert(4, layer("f", ("d", "e"), Layer::Flatten(Default::default())));
    layers[5].input = vec!["e".into()];
    let model = with_shape(layers, &[3, 6, 6]);
    let samples = samples(&[3, 6, 6], 200);
    for config in two_bits() {
        let report = assert_gains("chain", &model, &config, &samples, 0.5);
        assert_eq!(report.weights.len(), 3);
        // The product has 432 inputs, and a position a sample.
        let few = |warning: &CalibrationWarning| {
            matches!(warning, CalibrationWarning::FewPositions { positions: 100, inputs: 432, .. })
        };
        assert!(report.warnings.iter().any(few), "{report}");
    }
}

fn matrix(name: &str, len: usize) -> Option<coreml_quant::proto::WeightParams> {
    Some(around(name, len as u64, 0.0, 0.8))
}

#[test]
fn recurrent_layers_and_embeddings() {
    let sigmoid = || activation_params::NonlinearityType::Sigmoid(ActivationSigmoid::default());
    let tanh = || activation_params::NonlinearityType::Tanh(ActivationTanh::default());
    let activation = |kind| ActivationParams { nonlinearity_type: Some(kind) };
    let (inputs, units) = (6, 8);
    let simple = Layer::SimpleRecurrent(Box::new(SimpleRecurrentLayerParams {
        input_vector_size: inputs as u64,
        output_vector_size: units as u64,
        activation: Some(activation(tanh())),
        sequence_output: true,
        has_bias_vector: true,
        weight_matrix: matrix("w", units * inputs),
        recursion_matrix: matrix("r", units * units),
        bias_vector: matrix("b", units),
        ..Default::default()
    }));
    let gru = Layer::Gru(Box::new(GruLayerParams {
        input_vector_size: inputs as u64,
        output_vector_size: units as u64,
        activations: vec![activation(sigmoid()), activation(tanh())],
        sequence_output: true,
        has_bias_vectors: true,
        update_gate_weight_matrix: matrix("uw", units * inputs),
        reset_gate_weight_matrix: matrix("rw", units * inputs),
        output_gate_weight_matrix: matrix("ow", units * inputs),
        update_gate_recursion_matrix: matrix("ur", units * units),
        reset_gate_recursion_matrix: matrix("rr", units * units),
        output_gate_recursion_matrix: matrix("or", units * units),
        update_gate_bias_vector: matrix("ub", units),
        reset_gate_bias_vector: matrix("rb", units),
        output_gate_bias_vector: matrix("ob", units),
        ..Default::default()
    }));
    let samples = samples(&[12, 1, inputs], 40);
    for (what, kind, weights) in [("simple", simple, 2), ("gru", gru, 6)] {
        let model = with_shape(vec![layer(what, ("x", "y"), kind)], &[inputs]);
        let report = assert_recurrent(what, &model, &samples);
        assert_eq!(report.weights.len(), weights, "{report}");
        assert!(report.weights.iter().all(|weight| weight.positions == 20 * 12), "{report}");
    }
    // Of 30 words, five occur.
    let embedding = EmbeddingLayerParams {
        input_dim: 30,
        output_channels: units as u64,
        weights: matrix("e", 30 * units),
        ..Default::default()
    };
    let model = with_shape(vec![layer("e", ("x", "y"), Layer::Embedding(embedding))], &[1]);
    let word = |at: u64| Features::new().with("x", ArrayD::from_elem(IxDyn(&[1]), (at * at % 7 * 4) as f32));
    let words: Vec<Features> = (0..60).map(word).collect();
    assert_gains("embedding", &model, &QuantConfig::kmeans_lut(2).unwrap(), &words, 0.5);
}

/// Recurrent weights each count for themselves: some may find nothing better.
fn assert_recurrent(what: &str, model: &Model, samples: &[Features]) -> CalibrationReport {
    let (calibration, test) = samples.split_at(samples.len() / 2);
    let config = QuantConfig::kmeans_lut(2).unwrap().with_growth(true);
    let free = quantize_weights(model, &config).unwrap().model;
    let calibration = Calibration::new(calibration.iter().cloned());
    let calibrated = quantize_weights(model, &config.with_calibration(calibration)).unwrap();
    assert!(check(&calibrated.model).is_empty(), "{what}");
    let (before, after) = (noise(model, &free, test), noise(model, &calibrated.model, test));
    assert!(after < 0.8 * before, "{what}: {before:.5} without samples, {after:.5} with");
    calibrated.report.calibration.unwrap()
}

#[test]
fn what_cannot_be_reached_is_reported() {
    let inner = |name| convolution(name, ("x", "y"), [4, 6], |_| {});
    let layers = vec![
        layer("cond", ("x", "c"), Layer::ReduceMax(Default::default())),
        branch("b", "c", vec![inner("then")], vec![inner("else")]),
    ];
    let model = with_shape(layers, &[4, 9, 8]);
    let config = QuantConfig::kmeans_lut(2).unwrap();
    let free = quantize_weights(&model, &config).unwrap().model;
    let samples = samples(&[4, 9, 8], 4);
    let calibrated = quantize_weights(&model, &config.with_calibration(Calibration::new(samples))).unwrap();
    assert_eq!(calibrated.model.to_bytes(), free.to_bytes());
    let report = calibrated.report.calibration.unwrap();
    let reasons: Vec<_> = report.weights.iter().map(|weight| weight.not_calibrated).collect();
    assert_eq!(reasons, [Some(NotCalibrated::InsideOther); 2], "{report}");
    assert!(report.to_string().contains("inside a branch"), "{report}");
}

#[test]
fn samples_are_checked_and_work_can_be_stopped() {
    let model = digits();
    let config = || QuantConfig::kmeans_lut(2).unwrap();
    let run = |calibration| quantize_weights(&model, &config().with_calibration(calibration));
    assert!(matches!(run(Calibration::new([])), Err(Error::NoSamples)));
    let wrong = Features::new().with("picture", ArrayD::<f32>::zeros(IxDyn(&[1, 8, 8])));
    let error = run(Calibration::new([wrong])).unwrap_err();
    assert!(matches!(error, Error::Calibration { .. }) && error.to_string().contains("sample 0"), "{error}");
    let stop = Calibration::synthetic(4).with_progress(|progress| {
        if progress.layers_done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(run(stop), Err(Error::Cancelled)));
    let small = run(Calibration::synthetic(40).with_memory(1)).unwrap().report.calibration.unwrap();
    assert_eq!(small.samples, 1);
    assert!(small.warnings.contains(&CalibrationWarning::SamplesLeftOut { used: 1, given: 50 }), "{small}");
}

#[test]
fn seeds_decide_and_threads_do_not() {
    let model = digits();
    let run = |seed, threads| {
        let config = QuantConfig::kmeans_lut(2).unwrap().with_calibration(Calibration::synthetic(16).with_seed(seed));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| quantize_weights(&model, &config)).unwrap().model.to_bytes()
    };
    let first = run(1, 1);
    assert!(first == run(1, 3));
    assert!(first != run(2, 3));
}

#[test]
fn a_file_is_what_memory_is() {
    let model = digits();
    let config = QuantConfig::linear(3).unwrap().with_calibration(Calibration::synthetic(8));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digits.mlmodel");
    let report = coreml_quant::quantize_to_file(&model, &config, &path, &Default::default()).unwrap();
    let quantized = quantize_weights(&model, &config).unwrap();
    assert!(std::fs::read(path).unwrap() == quantized.model.to_bytes());
    assert_eq!(report, quantized.report);
}

#[test]
fn kept_biases_keep_their_form() {
    let model = digits();
    let config = QuantConfig::kmeans_lut(2).unwrap().with_biases(Biases::Keep);
    let report = quantize_weights(&model, &config.with_calibration(Calibration::synthetic(8))).unwrap().report;
    let biases = report.weights.iter().filter(|weight| weight.place.field == "bias");
    assert!(biases.map(|bias| bias.after).eq([StoredForm::Float32; 4]), "{report}");
}

/// Signs, and the scale of least error in the metric's diagonal.
#[derive(Debug)]
struct WeightedSign;

impl WeightedSign {
    fn store(values: &[f32], importance: &[f32]) -> Result<Payload, QuantizeError> {
        let total: f32 = importance.iter().sum();
        let mean = values.iter().zip(importance).map(|(value, weight)| weight * value.abs()).sum::<f32>() / total;
        let signs: Vec<u8> = values.iter().map(|&value| u8::from(value >= 0.0)).collect();
        let codes = Codes::pack(&signs, Nbits::ONE)?;
        Ok(Payload::Linear { codes, scale: vec![2.0 * mean], bias: vec![-mean] })
    }
}

impl Quantizer for WeightedSign {
    fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
        StoredForm::Linear { nbits: Nbits::ONE, scales: 1, biases: 1 }
    }

    fn quantize(&self, weight: WeightView<'_>, _: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        Self::store(&weight.to_vec(), &vec![1.0; weight.len()])
    }

    fn needs(&self) -> Needs {
        Needs::Statistics
    }

    fn quantize_with(
        &self,
        weight: WeightView<'_>,
        statistics: &Statistics<'_>,
        _: &mut QuantizeContext,
    ) -> Result<Payload, QuantizeError> {
        assert_eq!((statistics.importance.len(), statistics.target.len()), (weight.len(), weight.len()));
        assert!(statistics.error(statistics.target) < 1e-9 * statistics.error(&vec![0.0; weight.len()]));
        assert_eq!(statistics.error(&[]), f64::INFINITY);
        Self::store(statistics.target, statistics.importance)
    }
}

#[test]
fn quantizers_of_ones_own_get_statistics() {
    let transposed = |p: &mut coreml_quant::proto::ConvolutionLayerParams| (p.is_deconvolution, p.n_groups) = (true, 2);
    let layers = vec![
        convolution("c1", ("x", "a"), [4, 6], |p| p.has_bias = true),
        relu("r", ("a", "b")),
        convolution("c2", ("b", "y"), [6, 4], transposed),
    ];
    let model = with_shape(layers, &[4, 9, 8]);
    let samples = samples(&[4, 9, 8], 40);
    assert_gains("signs", &model, &QuantConfig::custom(WeightedSign), &samples, 0.95);
}

//! Values that a form cannot hold: too small, too large, infinite or NaN. What becomes of them, and what is said.

mod common;
mod evaluate;
mod networks;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::kinds::{float16, float32, kind, values};
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{self, NeuralNetworkLayer, WeightParams};
use coreml_quant::{
    Biases, Error, Mode, Model, Outcome, Payload, QuantConfig, QuantizeContext, QuantizeError, Quantizer, Reason,
    Refused, Report, SaveOptions, StoredForm, WeightError, WeightInfo, WeightSpec, WeightView, check, compare,
    quantize_to_file, quantize_weights,
};
use networks::{batchnorm, convolution, model};

fn quantize(model: &Model, config: &QuantConfig) -> (Model, Report) {
    let quantized = quantize_weights(model, config).unwrap();
    assert!(check(&quantized.model).is_empty(), "{:?}", check(&quantized.model));
    (quantized.model, quantized.report)
}

/// The refused weights, which are the same for both ways to quantize and for any number of threads.
fn refused(model: &Model, config: &QuantConfig) -> Vec<Refused> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("o.mlmodel");
    let to_file = quantize_to_file(model, config, path, &SaveOptions::default()).unwrap_err().to_string();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let error = pool.install(|| quantize_weights(model, config)).unwrap_err();
        assert_eq!(error.to_string(), to_file);
    }
    match quantize_weights(model, config) {
        Err(Error::Unrepresentable { refused }) => refused,
        other => panic!("{other:?}"),
    }
}

fn outcomes(report: &Report) -> Vec<Outcome> {
    report.weights.iter().map(|weight| weight.outcome).collect()
}

/// A weight of ordinary values and one that is not.
fn with_value(units: usize, index: usize, value: f32) -> WeightParams {
    let mut values = values(units);
    values[index] = value;
    WeightParams::from_floats(&values)
}

fn constant(name: &str, params: WeightParams) -> NeuralNetworkLayer {
    let shape = vec![params.float_value.len() as u64];
    let constant = proto::LoadConstantNdLayerParams { shape, data: Some(params) };
    NeuralNetworkLayer { name: name.into(), layer: Some(Layer::LoadConstantNd(constant)), ..Default::default() }
}

/// A convolution whose weights a batchnorm makes ordinary.
fn scaled_before_batchnorm(factor: f32) -> Model {
    let scaled = |params: &WeightParams, factor: f32| {
        WeightParams::from_floats(&params.float_value.iter().map(|value| value * factor).collect::<Vec<_>>())
    };
    let mut conv = convolution("conv", ("x", "y"), [4, 8], |_| {});
    if let Some(Layer::Convolution(p)) = &mut conv.layer {
        p.weights = p.weights.as_ref().map(|params| scaled(params, factor));
    }
    let mut norm = batchnorm("bn", ("y", "z"), 8);
    if let Some(Layer::Batchnorm(p)) = &mut norm.layer {
        p.epsilon = 1e-30;
        p.mean = p.mean.as_ref().map(|params| scaled(params, factor));
        p.variance = p.variance.as_ref().map(|params| scaled(params, factor * factor));
    }
    model(vec![conv, norm], &["x"], &["z"])
}

#[test]
fn values_too_small_for_float16_are_counted() {
    let model = scaled_before_batchnorm(1e-9);
    let (quantized, report) = quantize(&model, &QuantConfig::float16());
    let underflows: Vec<u64> = report.weights.iter().map(|weight| weight.distortion.unwrap().underflows()).collect();
    let names: Vec<&str> = report.weights.iter().map(|weight| &*weight.place.field).collect();
    assert_eq!(names, ["weights", "gamma", "beta", "mean", "variance"]);
    assert_eq!(underflows, [288, 0, 0, 8, 8]);
    assert_eq!(report.totals().underflows, Some(304));
    assert!(report.to_string().lines().last().unwrap().ends_with(", 304 values too small for float16"), "{report}");
    // Seen afterwards as well.
    assert_eq!(compare(&model, &quantized).unwrap().totals().underflows, Some(304));

    // Folding first makes them ordinary.
    let (_, report) = quantize(&model, &QuantConfig::float16().with_fold(true));
    assert_eq!(report.folds.folds.len(), 1);
    assert_eq!(report.totals().underflows, Some(0));
    assert!(report.sqnr_db().unwrap() > 65.0, "{report}");
    assert!(!report.to_string().contains("too small"));

    // Codes have no smallest value; and what was not measured is not counted.
    let (_, report) =
        quantize(&model, &QuantConfig::linear(8).unwrap().with_fold(false).with_biases(Biases::AsWeights));
    assert_eq!(report.totals().underflows, Some(0));
    let (_, report) = quantize(&model, &QuantConfig::float16().with_measure(false));
    assert_eq!(report.totals().underflows, None);
}

#[test]
fn an_overflow_names_its_cures_and_folding_is_one() {
    let model = scaled_before_batchnorm(1e6);
    let error = quantize_weights(&model, &QuantConfig::float16()).unwrap_err().to_string();
    for part in ["\"conv\", weights", "\"bn\", mean", "\"bn\", variance", "with_fold", "with_fallback"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let (_, report) = quantize(&model, &QuantConfig::float16().with_fold(true));
    assert!(report.weights.iter().all(|weight| weight.outcome == Outcome::Converted));

    let (kept, report) = quantize(&model, &QuantConfig::float16().with_fallback(true));
    let weights = &report.weights;
    assert!(matches!(weights[0].outcome, Outcome::Kept(Reason::BeyondFloat16 { .. })), "{report}");
    assert_eq!(weights[0].distortion.unwrap().sqnr_db(), f64::INFINITY);
    // The others of the layer have to agree with the one that is beyond float16.
    assert_eq!(weights[1].outcome, Outcome::Kept(Reason::OthersBeyondFloat16));
    assert!(kept == model);
}

/// `{mode}` with every number of bits that matters.
fn modes() -> Vec<(&'static str, QuantConfig)> {
    let config = |mode: Mode| {
        let nbits = (!mode.nbits().is_empty()).then_some(4);
        (mode.name(), QuantConfig::from_mode(mode, nbits).unwrap().with_growth(true).with_biases(Biases::AsWeights))
    };
    [Mode::Float16, Mode::Linear, Mode::LinearSymmetric, Mode::LinearLut, Mode::KmeansLut].map(config).to_vec()
}

/// Every weight that is refused is named, in every mode; with a fallback they stay, and all others are converted.
#[test]
fn all_refused_weights_are_named_or_kept() {
    let matrix = |name: &str, value: f32| {
        let mut layer = kind("innerProduct").layer(&mut |field, units, _| {
            Some(if field == "weights" { with_value(units, 7, value) } else { float32(units) })
        });
        layer.name = name.into();
        layer
    };
    let model = common::kinds::model(vec![
        matrix("good", 0.5),
        matrix("infinite", f32::NEG_INFINITY),
        matrix("fine", -0.5),
        matrix("nan", f32::NAN),
    ]);
    for (mode, config) in modes() {
        let refused = refused(&model, &config);
        let names: Vec<_> = refused.iter().map(|refused| (&*refused.place.layer, &*refused.place.field)).collect();
        assert_eq!(names, [("infinite", "weights"), ("nan", "weights")], "{mode}");
        for refused in &refused {
            assert!(matches!(refused.cause, QuantizeError::NonFinite { index: 7, .. }), "{mode}: {refused:?}");
        }
        let (kept, report) = quantize(&model, &config.with_fallback(true));
        let stays = Outcome::Kept(Reason::NonFinite { index: 7 });
        // In half precision the bias agrees with the matrix that stays.
        let bias = if mode == "float16" { Outcome::Kept(Reason::OthersBeyondFloat16) } else { Outcome::Converted };
        let good = [Outcome::Converted, Outcome::Converted];
        assert_eq!(outcomes(&report), [good, [stays, bias], good, [stays, bias]].concat(), "{mode}");
        let params = |model: &Model| model.layers()[3].weights[0].params.cloned();
        let bits = |params: Option<WeightParams>| params.unwrap().float_value.as_le_bytes().to_vec();
        assert_eq!(bits(params(&kept)), bits(params(&model)));
    }
}

#[test]
fn ranges_beyond_float32_fall_back_too() {
    let mut wide = values(30);
    // Row 3 of the 6 x 5 matrix.
    (wide[16], wide[18]) = (3e38, -3e38);
    let layer = kind("innerProduct").layer(&mut |field, units, _| {
        Some(if field == "weights" { WeightParams::from_floats(&wide) } else { float32(units) })
    });
    let model = common::kinds::model(vec![layer]);
    let config = QuantConfig::linear(1).unwrap().with_growth(true).with_biases(Biases::AsWeights);
    assert!(matches!(refused(&model, &config)[..], [Refused { cause: QuantizeError::ScaleRange { channel: 3 }, .. }]));
    let (_, report) = quantize(&model, &config.with_fallback(true));
    assert_eq!(outcomes(&report), [Outcome::Kept(Reason::BeyondScale { channel: 3 }), Outcome::Converted]);
    // A table holds them.
    let (_, report) = quantize(&model, &QuantConfig::kmeans_lut(1).unwrap().with_growth(true));
    assert_eq!(outcomes(&report), [Outcome::Converted; 2]);
}

/// A mask of an attention: zero, or minus infinity (or nearly so) where nothing may be looked at.
#[test]
fn constants_that_are_not_finite_stay() {
    for mask in [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, f32::MIN] {
        let matrix = kind("batchedMatmul").layer(&mut |_, units, _| Some(float32(units)));
        let model = common::kinds::model(vec![constant("mask", with_value(64, 5, mask)), matrix]);
        for (mode, config) in modes() {
            let (_, report) = quantize(&model, &config);
            let stays = match (mask.is_finite(), mode) {
                (false, _) => Outcome::Kept(Reason::NonFinite { index: 5 }),
                (true, "float16") => Outcome::Kept(Reason::BeyondFloat16 { index: 5 }),
                (true, "linear_symmetric") => report.weights[0].outcome,
                (true, _) => Outcome::Converted,
            };
            assert_eq!(outcomes(&report), [stays, Outcome::Converted, Outcome::Converted], "{mode} {mask}");
            // Unless that is not wanted.
            if matches!(stays, Outcome::Kept(_)) {
                let refused = refused(&model, &config.with_fallback(false));
                assert_eq!((refused.len(), &*refused[0].place.layer), (1, "mask"), "{mode} {mask}");
            }
        }
        // Back to float32 there is nothing to refuse.
        quantize(&model, &QuantConfig::dequantize().with_fallback(false));
    }
    // Whatever it was stored in.
    let halves: Vec<u8> =
        [0x3c00_u16, 0xfc00, 0x4000, 0].repeat(8).iter().flat_map(|half| half.to_le_bytes()).collect();
    let params = WeightParams { float16_value: halves.into(), ..Default::default() };
    let shape = vec![32];
    let constant = proto::LoadConstantNdLayerParams { shape, data: Some(params) };
    let layer = NeuralNetworkLayer { layer: Some(Layer::LoadConstantNd(constant)), ..Default::default() };
    let (_, report) = quantize(&common::kinds::model(vec![layer]), &QuantConfig::linear(4).unwrap().with_growth(true));
    assert_eq!(outcomes(&report), [Outcome::Kept(Reason::NonFinite { index: 1 })]);
}

/// A weight that is not selected moves to float16 with the others of its layer: only where it can, if that is asked for.
#[test]
fn weights_move_together_only_if_all_can() {
    let layer = |weights: fn(usize) -> WeightParams| {
        kind("innerProduct").layer(&mut |field, units, _| {
            Some(if field == "bias" { with_value(units, 2, 1e6) } else { weights(units) })
        })
    };
    let no_bias = |weight: &WeightInfo<'_>| weight.field != "bias";
    let config = QuantConfig::float16().with_selector(no_bias);
    let model = common::kinds::model(vec![layer(float32)]);
    let refused = refused(&model, &config);
    assert_eq!((refused.len(), &*refused[0].place.field, refused[0].form), (1, "bias", StoredForm::Float16));
    let (kept, report) = quantize(&model, &config.clone().with_fallback(true));
    let kept_all = [Outcome::Kept(Reason::OthersBeyondFloat16), Outcome::Kept(Reason::NotSelected)];
    assert_eq!(outcomes(&report), kept_all);
    assert!(kept == model);
    // A mix of old has to become one type in any case.
    let model = common::kinds::model(vec![layer(float16)]);
    let (_, report) = quantize(&model, &config.with_fallback(true));
    assert_eq!(outcomes(&report), [Outcome::MovedAlong, Outcome::Kept(Reason::NotSelected)]);
    assert!(report.weights.iter().all(|weight| weight.after == StoredForm::Float32));
}

/// Fails on the weight of a size, and counts what it is asked for.
#[derive(Debug)]
struct FailsAt {
    units: usize,
    asked: &'static AtomicUsize,
}

impl Quantizer for FailsAt {
    fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
        StoredForm::Float16
    }

    fn quantize(&self, weight: WeightView<'_>, _: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if weight.len() >= self.units {
            return Err(QuantizeError::Other(format!("{} values", weight.len()).into()));
        }
        Ok(Payload::Float16(vec![0; 2 * weight.len()]))
    }
}

#[test]
fn the_first_failure_ends_the_job() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let sizes = |sizes: std::ops::Range<usize>| {
        common::kinds::model(sizes.map(|units| constant(&units.to_string(), float32(units))).collect())
    };
    for (model, units, threads, most) in [
        // The first weight fails, and nothing else is begun.
        (sizes(1..200), 1, 1, 1),
        // The same error from many threads as from one.
        (sizes(1..200), 60, 1, 60),
        (sizes(1..200), 60, 4, 199),
        (sizes(1..200), 199, 4, 199),
    ] {
        ASKED.store(0, Ordering::Relaxed);
        let config = QuantConfig::custom(FailsAt { units, asked: &ASKED });
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        match pool.install(|| quantize_weights(&model, &config)) {
            Err(Error::Weight { place, cause: WeightError::Quantize(QuantizeError::Other(error)) }) => {
                assert_eq!(&*place.layer, &units.to_string());
                assert_eq!(error.to_string(), format!("{units} values"));
            }
            other => panic!("{other:?}"),
        }
        assert!(
            ASKED.load(Ordering::Relaxed) <= most,
            "{} for {units} in {threads} threads",
            ASKED.load(Ordering::Relaxed)
        );
    }
}

//! Layers that work on each value by itself, or with one value of each channel.

use coreml_quant::proto::activation_params::NonlinearityType;
use coreml_quant::proto::unary_function_layer_params::Operation;
use coreml_quant::proto::{
    ActivationParams, BatchnormLayerParams, BiasLayerParams, ScaleLayerParams, UnaryFunctionLayerParams,
};

use super::{Tensor, values};

/// Applies a function to each value and its channel.
fn by_channel(input: &Tensor, function: impl Fn(f64, usize) -> f64) -> Tensor {
    let (_, channels, inner) = input.around(3);
    let values = input.values.iter().enumerate().map(|(index, &value)| function(value, index / inner % channels));
    Tensor::new(&input.shape, values.collect())
}

pub(super) fn batchnorm(params: &BatchnormLayerParams, input: &Tensor) -> Tensor {
    let (batch, channels, inner) = input.around(3);
    assert_eq!(channels, params.channels as usize, "channels of a batchnorm");
    let epsilon = if params.epsilon == 0.0 { 1e-5 } else { f64::from(params.epsilon) };
    let (gamma, beta) = (values(params.gamma.as_ref()), values(params.beta.as_ref()));
    let normalize =
        |x: f64, c: usize, mean: f64, variance: f64| gamma[c] * (x - mean) / (variance + epsilon).sqrt() + beta[c];
    if !params.compute_mean_var {
        let (mean, variance) = (values(params.mean.as_ref()), values(params.variance.as_ref()));
        return by_channel(input, |x, c| normalize(x, c, mean[c], variance[c]));
    }
    // The statistics of one image, or of the whole batch.
    let images = if params.instance_normalization { 1 } else { batch };
    let mut output = input.clone();
    for batch in output.values.chunks_exact_mut(images * channels * inner) {
        for c in 0..channels {
            let of_channel = |index: usize| index / inner % channels == c;
            let mine: Vec<f64> =
                batch.iter().enumerate().filter(|(index, _)| of_channel(*index)).map(|(_, &value)| value).collect();
            let mean = mine.iter().sum::<f64>() / mine.len() as f64;
            let variance = mine.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / mine.len() as f64;
            for (_, value) in batch.iter_mut().enumerate().filter(|(index, _)| of_channel(*index)) {
                *value = normalize(*value, c, mean, variance);
            }
        }
    }
    output
}

/// Combines an array with one of shape [1], [C], [1, H, W] or [C, H, W], broadcast along its last three axes.
fn broadcast(input: &Tensor, shape: &[u64], other: &[f64], function: impl Fn(f64, f64) -> f64) -> Tensor {
    let (channels, height, width) = match *shape {
        [channels] => (channels as usize, 1, 1),
        [channels, height, width] => (channels as usize, height as usize, width as usize),
        _ => panic!("shape {shape:?}"),
    };
    if (channels, height, width) == (1, 1, 1) {
        return input.map(|value| function(value, other[0]));
    }
    let (_, c, inner) = input.around(3);
    let w = *input.shape.last().expect("three axes");
    let h = inner / w;
    for (mine, whole) in [(channels, c), (height, h), (width, w)] {
        assert!(mine == 1 || mine == whole, "shape {shape:?} on {:?}", input.shape);
    }
    let values = input.values.iter().enumerate().map(|(index, &value)| {
        let (x, y, z) = (index % w, index / w % h, index / (w * h) % c);
        let place = |position: usize, size: usize| if size == 1 { 0 } else { position };
        let other = other[(place(z, channels) * height + place(y, height)) * width + place(x, width)];
        function(value, other)
    });
    Tensor::new(&input.shape, values.collect())
}

pub(super) fn scale(params: &ScaleLayerParams, input: &Tensor) -> Tensor {
    let scaled = broadcast(input, &params.shape_scale, &values(params.scale.as_ref()), |x, scale| x * scale);
    if !params.has_bias {
        return scaled;
    }
    broadcast(&scaled, &params.shape_bias, &values(params.bias.as_ref()), |x, bias| x + bias)
}

pub(super) fn bias(params: &BiasLayerParams, input: &Tensor) -> Tensor {
    broadcast(input, &params.shape, &values(params.bias.as_ref()), |x, bias| x + bias)
}

pub(super) fn activation(params: &ActivationParams, input: &Tensor) -> Tensor {
    match params.nonlinearity_type.as_ref().expect("an activation has a function") {
        NonlinearityType::ReLu(_) => input.map(|x| x.max(0.0)),
        NonlinearityType::LeakyReLu(p) => input.map(|x| if x < 0.0 { x * f64::from(p.alpha) } else { x }),
        NonlinearityType::Linear(p) => input.map(|x| x * f64::from(p.alpha) + f64::from(p.beta)),
        NonlinearityType::Tanh(_) => input.map(f64::tanh),
        NonlinearityType::Sigmoid(_) => input.map(|x| 1.0 / (1.0 + (-x).exp())),
        other => panic!("not evaluated: {other:?}"),
    }
}

pub(super) fn unary(params: &UnaryFunctionLayerParams, input: &Tensor) -> Tensor {
    assert_eq!(params.r#type, Operation::Threshold as i32, "not evaluated");
    let or_one = |scale: f32| if scale == 0.0 { 1.0 } else { f64::from(scale) };
    input.map(|x| (x * or_one(params.scale) + f64::from(params.shift)).max(params.alpha.into()))
}

pub(super) fn add(first: &Tensor, second: &Tensor) -> Tensor {
    assert_eq!(first.shape, second.shape);
    Tensor::new(&first.shape, first.values.iter().zip(&second.values).map(|(a, b)| a + b).collect())
}

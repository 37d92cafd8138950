//! One value in, one value out: activations without weights, the unary layers, clipping.
//!
//! Formulas that lose precision in float32 (`erf`, the hyperbolic functions, `gelu`) are computed in float64 and
//! rounded once. NaN stays NaN.

use super::checks::{Outputs, enumeration, one};
use super::{Context, uncertain};
use crate::format::proto::activation_params::NonlinearityType;
use crate::format::proto::gelu_layer_params::GeluMode;
use crate::format::proto::unary_function_layer_params::Operation;
use crate::format::proto::{
    ActivationParams, ClampedReLuLayerParams, ClipLayerParams, GeluLayerParams, UnaryFunctionLayerParams,
};
use crate::predict::tensor::Tensor;

/// Applies a function to every value.
pub(super) fn map(inputs: &[Tensor], f: impl Fn(f32) -> f32) -> Outputs {
    let x = one(inputs)?;
    let y = match x.as_slice() {
        Some(values) => super::checks::tensor(x.shape(), values.iter().map(|&v| f(v)).collect())?,
        None => super::checks::copied(x.map(|&v| f(v)).view()),
    };
    Ok(vec![y])
}

/// Applies a function to every value in float64.
pub(super) fn map_f64(inputs: &[Tensor], f: impl Fn(f64) -> f64) -> Outputs {
    map(inputs, |v| f(f64::from(v)) as f32)
}

/// `activation`, but for those with weights: these give `None`.
pub(super) fn activation(params: &ActivationParams, inputs: &[Tensor]) -> Option<Outputs> {
    let Some(kind) = &params.nonlinearity_type else {
        return Some(Err(super::checks::parameter("NonlinearityType", "not set", "one of the activations")));
    };
    Some(match kind {
        NonlinearityType::Linear(p) => map(inputs, |v| p.alpha * v + p.beta),
        NonlinearityType::ReLu(_) => map(inputs, |v| if v < 0.0 { 0.0 } else { v }),
        NonlinearityType::LeakyReLu(p) => map(inputs, |v| if v < 0.0 { p.alpha * v } else { v }),
        NonlinearityType::ThresholdedReLu(p) => map(inputs, |v| if v < p.alpha { 0.0 } else { v }),
        NonlinearityType::Tanh(_) => map(inputs, f32::tanh),
        NonlinearityType::ScaledTanh(p) => map(inputs, |v| p.alpha * (p.beta * v).tanh()),
        NonlinearityType::Sigmoid(_) => map(inputs, |v| 1.0 / (1.0 + (-v).exp())),
        NonlinearityType::SigmoidHard(p) => map(inputs, |v| clamp(p.alpha * v + p.beta, 0.0, 1.0)),
        NonlinearityType::Elu(p) => map(inputs, |v| if v < 0.0 { p.alpha * v.exp_m1() } else { v }),
        NonlinearityType::Softsign(_) => {
            map(inputs, |v| if v.is_infinite() { v.signum() } else { v / (1.0 + v.abs()) })
        }
        NonlinearityType::Softplus(_) => map(inputs, |v| maximum(v, 0.0) + (-v.abs()).exp().ln_1p()),
        NonlinearityType::PReLu(_) | NonlinearityType::ParametricSoftplus(_) => return None,
    })
}

/// `unary`: a function of `scale * x + shift`.
pub(super) fn unary(params: &UnaryFunctionLayerParams, inputs: &[Tensor]) -> Outputs {
    let scale = if params.scale == 0.0 { 1.0 } else { params.scale };
    let epsilon = if params.epsilon == 0.0 { 1e-6 } else { params.epsilon };
    let (shift, alpha) = (params.shift, params.alpha);
    let map = |f: &dyn Fn(f32) -> f32| map(inputs, |v| f(scale * v + shift));
    match enumeration("type", params.r#type)? {
        Operation::Sqrt => map(&f32::sqrt),
        Operation::Rsqrt => map(&|v| 1.0 / (v + epsilon).sqrt()),
        Operation::Inverse => map(&|v| 1.0 / (v + epsilon)),
        Operation::Power => map(&|v| v.powf(alpha)),
        Operation::Exp => map(&f32::exp),
        // The documentation leaves out epsilon; Core ML adds it.
        Operation::Log => map(&|v| (v + epsilon).ln()),
        Operation::Abs => map(&f32::abs),
        Operation::Threshold => map(&|v| maximum(v, alpha)),
    }
}

pub(super) fn clip(params: &ClipLayerParams, inputs: &[Tensor]) -> Outputs {
    map(inputs, |v| clamp(v, params.min_val, params.max_val))
}

pub(super) fn clamped_relu(params: &ClampedReLuLayerParams, inputs: &[Tensor]) -> Outputs {
    map(inputs, |v| minimum(params.beta, if v < 0.0 { params.alpha * v } else { v }))
}

pub(super) fn round(inputs: &[Tensor], cx: &mut Context) -> Outputs {
    if inputs.iter().any(|x| x.iter().any(|v| v.fract().abs() == 0.5)) {
        cx.note(uncertain::ROUND);
    }
    map(inputs, f32::round_ties_even)
}

/// -1, 0 or 1.
pub(super) fn sign(inputs: &[Tensor]) -> Outputs {
    map(inputs, |v| if v == 0.0 { 0.0 } else { v.signum() })
}

pub(super) fn gelu(params: &GeluLayerParams, inputs: &[Tensor]) -> Outputs {
    match enumeration("mode", params.mode)? {
        GeluMode::Exact => map_f64(inputs, |v| 0.5 * v * (1.0 + erf(v * std::f64::consts::FRAC_1_SQRT_2))),
        GeluMode::TanhApproximation => map_f64(inputs, |v| {
            0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044_715 * v.powi(3))).tanh())
        }),
        GeluMode::SigmoidApproximation => map_f64(inputs, |v| v / (1.0 + (-1.702 * v).exp())),
    }
}

/// The error function, to about 1e-15: the series `2/sqrt(pi) e^-x² Σ 2^n x^(2n+1) / (1·3·…·(2n+1))`, whose terms
/// are all of one sign; beyond 6 it differs from ±1 by less than float64 can tell.
pub(crate) fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// The larger value; NaN if one is NaN.
pub(super) fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

/// The smaller value; NaN if one is NaN.
pub(super) fn minimum(a: f32, b: f32) -> f32 {
    if a.is_nan() || a < b { a } else { b }
}

/// `min(max(v, low), high)`; NaN stays NaN, and bounds in the wrong order are no error.
fn clamp(v: f32, low: f32, high: f32) -> f32 {
    minimum(maximum(v, low), high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_agrees_with_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - y).abs() < 1e-10, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + y).abs() < 1e-10);
        }
        assert!((1.0 - erf(5.9)).abs() < 1e-15);
        assert_eq!(erf(f64::INFINITY), 1.0);
        assert!(erf(f64::NAN).is_nan());
    }

    #[test]
    fn nan_is_not_hidden() {
        for value in [maximum(f32::NAN, 0.0), maximum(0.0, f32::NAN), minimum(f32::NAN, 0.0), minimum(0.0, f32::NAN)] {
            assert!(value.is_nan());
        }
    }
}

//! Several values in, one value out, with numpy's broadcasting: arithmetic, comparisons, logic, choice.
//!
//! Shapes are aligned at their ends; an axis of length one is repeated. The limited broadcasting of the layers of
//! the first specifications is a part of it.

use ndarray::{ArrayView, IxDyn, Zip};

use super::checks::{Outputs, at_least, count, misfit, tensor, two, values};
use super::elementwise::{map, maximum, minimum};
use super::{Context, uncertain};
use crate::format::proto::DotProductLayerParams;
use crate::predict::tensor::{LayerError, Tensor};

const SEVERAL: &str = "one or more";

/// The shape that the inputs have together.
pub(super) fn shape(blobs: &[&Tensor], cx: &Context) -> Result<Vec<usize>, LayerError> {
    let rank = blobs.iter().map(|x| x.ndim()).max().unwrap_or(0);
    let mut shape = vec![1; rank];
    for x in blobs {
        for (dim, &len) in shape.iter_mut().skip(rank - x.ndim()).zip(x.shape()) {
            if *dim == 1 {
                *dim = len;
            } else if len != 1 && len != *dim {
                return Err(misfit(blobs, ": they cannot be broadcast"));
            }
        }
    }
    cx.size(&shape)?;
    Ok(shape)
}

/// A view of a blob in a shape that [`shape`] gave.
fn view<'a>(x: &'a Tensor, shape: &[usize]) -> Result<ArrayView<'a, f32, IxDyn>, LayerError> {
    x.broadcast(IxDyn(shape)).ok_or_else(|| misfit(&[x], format!(" {shape:?}")))
}

/// A function of two blobs.
fn zip(a: &Tensor, b: &Tensor, cx: &Context, f: impl Fn(f32, f32) -> f32) -> Result<Tensor, LayerError> {
    let shape = shape(&[a, b], cx)?;
    if a.shape() == b.shape() {
        let (a, b) = (values(a), values(b));
        return tensor(&shape, a.iter().zip(&*b).map(|(&a, &b)| f(a, b)).collect());
    }
    let y = Zip::from(view(a, &shape)?).and(view(b, &shape)?).map_collect(|&a, &b| f(a, b));
    Ok(super::checks::standard(y.into_shared()))
}

/// A function of exactly two inputs.
pub(super) fn binary(inputs: &[Tensor], cx: &Context, f: impl Fn(f32, f32) -> f32) -> Outputs {
    let (a, b) = two(inputs)?;
    Ok(vec![zip(a, b, cx, f)?])
}

/// A function of two values, applied to the inputs from the first to the last.
pub(super) fn fold(inputs: &[Tensor], cx: &Context, f: impl Fn(f32, f32) -> f32) -> Outputs {
    let Some((first, rest)) = inputs.split_first() else {
        return Err(LayerError::InputCount { found: 0, expected: SEVERAL });
    };
    let mut result = super::checks::standard(first.clone());
    for x in rest {
        result = zip(&result, x, cx, &f)?;
    }
    Ok(vec![result])
}

/// As [`fold`]; a single input is combined with a parameter.
pub(super) fn fold_or(inputs: &[Tensor], alpha: f32, cx: &Context, f: impl Fn(f32, f32) -> f32) -> Outputs {
    match inputs {
        [_] => map(inputs, |v| f(v, alpha)),
        _ => fold(inputs, cx, f),
    }
}

/// The mean of all inputs.
pub(super) fn average(inputs: &[Tensor], cx: &Context) -> Outputs {
    let n = inputs.len() as f32;
    map(&fold(inputs, cx, |a, b| a + b)?, |v| v / n)
}

/// A comparison of two inputs, or of one with a parameter: 1 where it holds, 0 elsewhere.
pub(super) fn compare(inputs: &[Tensor], alpha: f32, cx: &Context, f: impl Fn(f32, f32) -> bool) -> Outputs {
    let truth = |a, b| f32::from(u8::from(f(a, b)));
    match inputs {
        [_] => map(inputs, |v| truth(v, alpha)),
        [a, b] => Ok(vec![zip(a, b, cx, truth)?]),
        _ => Err(LayerError::InputCount { found: inputs.len(), expected: "one or two" }),
    }
}

/// A logical function of two inputs; what is not zero is true.
pub(super) fn logical(inputs: &[Tensor], cx: &Context, f: impl Fn(bool, bool) -> bool) -> Outputs {
    binary(inputs, cx, |a, b| f32::from(u8::from(f(a != 0.0, b != 0.0))))
}

pub(super) fn max(inputs: &[Tensor], cx: &Context) -> Outputs {
    fold(inputs, cx, maximum)
}

pub(super) fn min(inputs: &[Tensor], cx: &Context) -> Outputs {
    fold(inputs, cx, minimum)
}

/// The remainder with the sign of the divisor.
pub(super) fn modulo(inputs: &[Tensor], cx: &mut Context) -> Outputs {
    if inputs.get(1).is_some_and(|b| b.iter().any(|&b| b < 0.0)) {
        cx.note(uncertain::MOD);
    }
    binary(inputs, cx, |a, b| {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
    })
}

/// `whereBroadcastable`: condition, value where it is true, value where it is false.
pub(super) fn choose(inputs: &[Tensor], cx: &Context) -> Outputs {
    let [condition, yes, no] = super::checks::exactly::<3>(inputs, "three")?;
    let shape = shape(&[condition, yes, no], cx)?;
    let y = Zip::from(view(condition, &shape)?)
        .and(view(yes, &shape)?)
        .and(view(no, &shape)?)
        .map_collect(|&condition, &yes, &no| if condition != 0.0 { yes } else { no });
    Ok(vec![super::checks::standard(y.into_shared())])
}

/// A blob repeated to a shape.
pub(super) fn broadcast_to(x: &Tensor, shape: &[usize], cx: &Context) -> Outputs {
    cx.size(shape)?;
    Ok(vec![super::checks::copied(view(x, shape)?)])
}

/// `dot`: the sum of the products over the channels, divided by both norms for the cosine similarity.
pub(super) fn dot(params: &DotProductLayerParams, inputs: &[Tensor], cx: &mut Context) -> Outputs {
    let inputs = count(inputs, 2..=2, "two")?;
    let (a, b) = two(inputs)?;
    at_least(a, 0, 3)?;
    if a.shape() != b.shape() {
        return Err(misfit(&[a, b], ": they have to be equal"));
    }
    let channel = a.ndim() - 3;
    let (outer, channels, inner) = super::checks::around(a.shape(), channel);
    let mut shape = a.shape().to_vec();
    shape[channel] = 1;
    let (a, b) = (values(a), values(b));
    let mut zero_vector = false;
    let y = cx.tensor(&shape, |size| {
        let mut y = Vec::with_capacity(size);
        for o in 0..outer {
            for i in 0..inner {
                let (mut product, mut aa, mut bb) = (0.0_f64, 0.0_f64, 0.0_f64);
                for c in 0..channels {
                    let at = (o * channels + c) * inner + i;
                    let (a, b) = (f64::from(a[at]), f64::from(b[at]));
                    product += a * b;
                    aa += a * a;
                    bb += b * b;
                }
                if params.cosine_similarity {
                    zero_vector |= aa == 0.0 || bb == 0.0;
                    product /= aa.sqrt() * bb.sqrt();
                }
                y.push(product as f32);
            }
        }
        y
    })?;
    if zero_vector {
        cx.note(uncertain::COSINE);
    }
    Ok(vec![y])
}

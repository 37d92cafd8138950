//! What the layers share: contiguous values, checked sizes.

use std::borrow::Cow;

use ndarray::IxDyn;

use crate::predict::tensor::{LayerError, Tensor};

/// The largest number that a size in a layer's parameters may be.
const LARGEST: u64 = 1 << 31;

/// A size from a layer's parameters.
pub(super) fn size(name: &'static str, value: u64) -> Result<usize, LayerError> {
    let at_most = || LayerError::Parameter { name, found: value.to_string(), expected: format!("at most {LARGEST}") };
    usize::try_from(value).ok().filter(|_| value <= LARGEST).ok_or_else(at_most)
}

/// A size that is at least 1; `default` where it is not set.
pub(super) fn positive(name: &'static str, value: u64, default: usize) -> Result<usize, LayerError> {
    if value == 0 { Ok(default) } else { size(name, value) }
}

/// A size that the format stores with a sign.
pub(super) fn unsigned(name: &'static str, value: impl Into<i64>) -> Result<u64, LayerError> {
    let value = value.into();
    u64::try_from(value).map_err(|_| LayerError::Parameter {
        name,
        found: value.to_string(),
        expected: "a number that is not negative".to_owned(),
    })
}

/// The values of a tensor in row-major order, copied only if they do not lie like that.
pub(super) fn row_major(tensor: &Tensor) -> Cow<'_, [f32]> {
    match tensor.as_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(tensor.iter().copied().collect()),
    }
}

/// A tensor of row-major values.
pub(super) fn tensor(shape: &[usize], values: Vec<f32>) -> Result<Tensor, LayerError> {
    let len = values.len();
    Tensor::from_shape_vec(IxDyn(shape), values)
        .map_err(|_| LayerError::Shapes { shapes: vec![shape.to_vec(), vec![len]], hint: String::new() })
}

/// The number of values of a result, if that many are allowed.
pub(super) fn result_len(shape: &[usize], limit: usize) -> Result<usize, LayerError> {
    let len = shape.iter().try_fold(1_usize, |len, &size| len.checked_mul(size));
    // A zero anywhere hides sizes whose strides overflow.
    let without_zeros = shape.iter().filter(|&&size| size > 0).try_fold(1_usize, |len, &size| len.checked_mul(size));
    match len {
        Some(len) if len <= limit && without_zeros.is_some_and(|len| len <= isize::MAX as usize) => Ok(len),
        _ => Err(LayerError::TooLarge { shape: shape.to_vec(), limit }),
    }
}

/// The only input.
pub(super) fn single(inputs: &[Tensor]) -> Result<&Tensor, LayerError> {
    match inputs {
        [input] => Ok(input),
        _ => Err(LayerError::InputCount { found: inputs.len(), expected: "one" }),
    }
}

/// A shape that an input does not have.
pub(super) fn wrong_shape(input: usize, tensor: &Tensor, expected: impl Into<String>) -> LayerError {
    LayerError::InputShape { input, found: tensor.shape().to_vec(), expected: expected.into() }
}

/// The axes before the last `inner` ones, and those, of an input that has at least so many.
pub(super) fn split_axes<'t>(
    tensor: &'t Tensor,
    inner: usize,
    names: &str,
) -> Result<(&'t [usize], &'t [usize]), LayerError> {
    let outer =
        tensor.ndim().checked_sub(inner).ok_or_else(|| wrong_shape(0, tensor, format!("at least the axes {names}")))?;
    Ok(tensor.shape().split_at(outer))
}

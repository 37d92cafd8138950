//! What every family checks before it computes: numbers of inputs, axes, indices, sizes.
//!
//! Everything that a parameter or a blob may say is turned into a `usize` here, or into an error that names it. No
//! result is allocated whose size did not pass [`Context::size`].

use std::borrow::Cow;
use std::ops::RangeInclusive;

use ndarray::{ArrayView, IxDyn};

use super::Context;
use crate::predict::tensor::{LayerError, Tensor};

/// The most axes a blob has in the format.
pub(super) const MAX_RANK: usize = 5;

pub(super) type Outputs = Result<Vec<Tensor>, LayerError>;

impl Context {
    /// The number of values of a shape; refused before anything is allocated if there are too many values or axes.
    /// An axis of length zero counts as one, so that loops over the other axes are bounded, too.
    pub(super) fn size(&self, shape: &[usize]) -> Result<usize, LayerError> {
        if shape.len() > MAX_RANK {
            return Err(LayerError::Parameter {
                name: "the result's rank",
                found: shape.len().to_string(),
                expected: format!("at most {MAX_RANK}"),
            });
        }
        let extent = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim.max(1)));
        match extent {
            Some(extent) if extent <= self.max_values => Ok(shape.iter().product()),
            _ => Err(LayerError::TooLarge { shape: shape.to_vec(), limit: self.max_values }),
        }
    }

    /// A result of this shape, its values computed only if they are not too many.
    pub(super) fn tensor(&self, shape: &[usize], values: impl FnOnce(usize) -> Vec<f32>) -> Result<Tensor, LayerError> {
        let size = self.size(shape)?;
        tensor(shape, values(size))
    }
}

/// A blob of values in row-major order. A shape without axes becomes `[1]`.
pub(super) fn tensor(shape: &[usize], values: Vec<f32>) -> Result<Tensor, LayerError> {
    let shape = if shape.is_empty() { &[1] } else { shape };
    let found = values.len();
    Tensor::from_shape_vec(IxDyn(shape), values).map_err(|_| LayerError::Parameter {
        name: "the number of values",
        found: found.to_string(),
        expected: format!("as many as fit the shape {shape:?}"),
    })
}

/// The same values in another shape.
pub(super) fn reshape(x: &Tensor, shape: &[usize], cx: &Context) -> Result<Tensor, LayerError> {
    let shape = if shape.is_empty() { &[1] } else { shape };
    let hint = |hint: &str| LayerError::Shapes { shapes: vec![x.shape().to_vec(), shape.to_vec()], hint: hint.into() };
    if cx.size(shape)? != x.len() {
        return Err(hint(": they have different numbers of values"));
    }
    standard(x.clone()).into_shape_with_order(IxDyn(shape)).map_err(|_| hint(""))
}

/// Row-major; copied only if it is not.
pub(super) fn standard(x: Tensor) -> Tensor {
    if x.is_standard_layout() { x } else { x.as_standard_layout().into_owned().into_shared() }
}

/// A copy of a view in row-major order.
pub(super) fn copied(view: ArrayView<'_, f32, IxDyn>) -> Tensor {
    view.as_standard_layout().into_owned().into_shared()
}

/// The values in row-major order.
pub(super) fn values(x: &Tensor) -> Cow<'_, [f32]> {
    match x.as_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(x.iter().copied().collect()),
    }
}

/// Exactly `N` inputs.
pub(super) fn exactly<'a, const N: usize>(
    inputs: &'a [Tensor],
    expected: &'static str,
) -> Result<&'a [Tensor; N], LayerError> {
    inputs.try_into().map_err(|_| LayerError::InputCount { found: inputs.len(), expected })
}

/// The only input.
pub(super) fn one(inputs: &[Tensor]) -> Result<&Tensor, LayerError> {
    exactly::<1>(inputs, "one").map(|[x]| x)
}

/// Two inputs.
pub(super) fn two(inputs: &[Tensor]) -> Result<(&Tensor, &Tensor), LayerError> {
    exactly::<2>(inputs, "two").map(|[a, b]| (a, b))
}

/// One input, or two.
pub(super) fn one_or_two(inputs: &[Tensor]) -> Result<(&Tensor, Option<&Tensor>), LayerError> {
    match inputs {
        [x] => Ok((x, None)),
        [x, y] => Ok((x, Some(y))),
        _ => Err(LayerError::InputCount { found: inputs.len(), expected: "one or two" }),
    }
}

/// A number of inputs within a range.
pub(super) fn count<'a>(
    inputs: &'a [Tensor],
    range: RangeInclusive<usize>,
    expected: &'static str,
) -> Result<&'a [Tensor], LayerError> {
    if range.contains(&inputs.len()) {
        Ok(inputs)
    } else {
        Err(LayerError::InputCount { found: inputs.len(), expected })
    }
}

/// A parameter that makes no sense.
pub(super) fn parameter(name: &'static str, found: impl std::fmt::Debug, expected: impl Into<String>) -> LayerError {
    LayerError::Parameter { name, found: format!("{found:?}"), expected: expected.into() }
}

/// The value of an enumeration; one that the schema does not know is refused, not read as the default.
pub(super) fn enumeration<E: TryFrom<i32>>(name: &'static str, value: i32) -> Result<E, LayerError> {
    E::try_from(value).map_err(|_| parameter(name, value, "a value of the enumeration"))
}

/// An axis of a blob of `rank` axes; negative ones count from the end.
pub(super) fn axis(name: &'static str, axis: i64, rank: usize) -> Result<usize, LayerError> {
    from_end(axis, rank).filter(|&axis| axis < rank).ok_or_else(|| {
        parameter(name, axis, format!("an axis of {rank}, -{rank} to {}", i128::try_from(rank).unwrap_or(0) - 1))
    })
}

/// Different axes, in any order, marked in a list over all axes.
pub(super) fn axes(name: &'static str, list: &[i64], rank: usize) -> Result<Vec<bool>, LayerError> {
    let mut marked = vec![false; rank];
    for &item in list {
        let axis = axis(name, item, rank)?;
        if std::mem::replace(&mut marked[axis], true) {
            return Err(parameter(name, list, "each axis once"));
        }
    }
    Ok(marked)
}

/// `index`, or `len + index` if it is negative; `None` if that is negative still.
pub(super) fn from_end(index: i64, len: usize) -> Option<usize> {
    if index >= 0 { usize::try_from(index).ok() } else { len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?) }
}

/// A whole number that a blob holds, truncated towards zero. NaN and infinities are refused.
pub(super) fn whole(value: f32, len: usize) -> Result<i64, LayerError> {
    if value.is_finite() { Ok(value as i64) } else { Err(LayerError::Index { found: f64::from(value), len }) }
}

/// An index into `len` values; negative ones count from the end.
pub(super) fn index(value: f32, len: usize) -> Result<usize, LayerError> {
    from_end(whole(value, len)?, len)
        .filter(|&index| index < len)
        .ok_or(LayerError::Index { found: f64::from(value), len })
}

/// The only value of a blob, as a whole number.
pub(super) fn scalar(x: &Tensor, input: usize) -> Result<f32, LayerError> {
    match (x.len(), x.first()) {
        (1, Some(&value)) => Ok(value),
        _ => Err(LayerError::InputShape { input, found: x.shape().to_vec(), expected: "a single value".into() }),
    }
}

/// Whole numbers, of which there are no more than an array has axes (twice, for amounts of padding).
pub(super) fn whole_numbers(x: &Tensor, input: usize) -> Result<Vec<i64>, LayerError> {
    if x.len() > 2 * MAX_RANK {
        return Err(LayerError::InputShape {
            input,
            found: x.shape().to_vec(),
            expected: format!("at most {} values", 2 * MAX_RANK),
        });
    }
    x.iter().map(|&value| whole(value, MAX_RANK)).collect()
}

/// A shape that a parameter or a blob gives.
pub(super) fn dims<T>(name: &'static str, list: &[T]) -> Result<Vec<usize>, LayerError>
where
    T: Copy + std::fmt::Debug + TryInto<usize>,
{
    list.iter()
        .map(|&dim| dim.try_into().map_err(|_| parameter(name, list, "dimensions that are not negative")))
        .collect()
}

/// A number of elements that a parameter gives.
pub(super) fn length(name: &'static str, value: u64) -> Result<usize, LayerError> {
    usize::try_from(value).map_err(|_| parameter(name, value, "a number that fits the machine"))
}

/// A blob with at least `rank` axes.
pub(super) fn at_least(x: &Tensor, input: usize, rank: usize) -> Result<(), LayerError> {
    if x.ndim() >= rank {
        Ok(())
    } else {
        Err(LayerError::InputShape { input, found: x.shape().to_vec(), expected: format!("at least {rank} axes") })
    }
}

/// A blob with exactly `rank` axes.
pub(super) fn rank(x: &Tensor, input: usize, rank: usize) -> Result<(), LayerError> {
    if x.ndim() == rank {
        Ok(())
    } else {
        Err(LayerError::InputShape { input, found: x.shape().to_vec(), expected: format!("{rank} axes") })
    }
}

/// Shapes that do not fit each other.
pub(super) fn misfit(blobs: &[&Tensor], hint: impl Into<String>) -> LayerError {
    LayerError::Shapes { shapes: blobs.iter().map(|x| x.shape().to_vec()).collect(), hint: hint.into() }
}

/// The product of the axes before `axis`, its length, and the product of those after it.
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    let len = shape.get(axis).copied().unwrap_or(1);
    (shape.iter().take(axis).product(), len, shape.iter().skip(axis + 1).product())
}

//! Compressed weights of the older generation in the words of the newer one: the same bytes under other shapes.
//!
//! From CoreML8 on, parameters of compressed weights are inputs, scales have the weight's rank, indices and masks its
//! shape. A program that is raised to that for some weights takes the others along.

use bytes::Bytes;

use super::form::{Form, channel_axis};
use super::value::{BlobFiles, Tensor, TensorSpec};
use crate::error::{FormError, ValueError, WeightProblem};
use crate::format::dtype::Dtype;
use crate::format::proto::mil_spec::Operation;

/// A weight in its new words.
#[derive(Clone, Debug)]
pub(crate) struct Raised {
    pub(crate) form: Form,
    /// In the order of [`Form::parameters`].
    pub(crate) parameters: Vec<Bytes>,
}

/// What an operation of the older generation is in the newer one; `None` for any other operation.
pub(crate) fn raised(
    operation: &Operation,
    weight: &TensorSpec,
    files: &BlobFiles,
) -> Result<Option<Raised>, WeightProblem> {
    let parameter = |name: &str| {
        let value = operation.attributes.get(name);
        let value = value.ok_or_else(|| ValueError::Missing { parameter: name.to_owned() })?;
        Tensor::of(value, files)
    };
    let unfit = |parameter| WeightProblem::from(FormError::Parameter { parameter });
    let is_old = |name: &str| operation.attributes.contains_key(name);
    Ok(match operation.r#type.as_str() {
        "constexpr_affine_dequantize" => {
            let (data, scale, offset) = (parameter("quantized_data")?, parameter("scale")?, parameter("zero_point")?);
            let axis = parameter("axis")?.integers().and_then(|axis| axis.first().copied());
            let rank = weight.shape.len();
            let axis = axis.map(|axis| if axis < 0 { axis + rank as i64 } else { axis });
            let axis = axis.and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < rank);
            let mut block = weight.shape.clone();
            let count = scale.spec.len();
            if count > 1 {
                let axis = axis.filter(|&axis| weight.shape[axis] == count).ok_or_else(|| unfit("axis"))?;
                block[axis] = 1;
            }
            if channel_axis(&weight.shape, &block).is_err() || data.spec.shape != weight.shape {
                return Err(unfit("quantized_data"));
            }
            if offset.spec.dtype != data.spec.dtype {
                return Err(unfit("zero_point"));
            }
            let offset = match offset.spec.len() {
                1 => offset.bytes.iter().copied().cycle().take(count).collect::<Vec<u8>>().into(),
                len if len == count => offset.bytes,
                _ => return Err(unfit("zero_point")),
            };
            let has_offset = offset.iter().any(|&byte| byte != 0) || data.spec.dtype == Dtype::Uint8;
            let mut parameters = vec![data.bytes, scale.bytes];
            parameters.extend(has_offset.then_some(offset));
            Some(Raised { form: Form::Linear { dtype: data.spec.dtype, has_offset, block }, parameters })
        }
        "constexpr_lut_to_dense" if is_old("shape") => {
            let (indices, lut) = (parameter("indices")?, parameter("lut")?);
            let nbits = match lut.spec.len() {
                entries @ (2 | 4 | 16 | 64 | 256) => entries.ilog2() as u8,
                _ => return Err(unfit("lut")),
            };
            if Dtype::indices(nbits).and_then(|dtype| dtype.byte_len(weight.len())) != Some(indices.bytes.len()) {
                return Err(unfit("indices"));
            }
            let form = Form::Table { nbits, block: weight.shape.clone() };
            Some(Raised { form, parameters: vec![indices.bytes, lut.bytes] })
        }
        "constexpr_sparse_to_dense" if is_old("shape") => {
            let (kept, mask) = (parameter("nonzero_data")?, parameter("mask")?);
            if mask.bytes.len() != weight.len().div_ceil(8) {
                return Err(unfit("mask"));
            }
            Some(Raised { form: Form::Sparse { ones: kept.spec.len() }, parameters: vec![kept.bytes, mask.bytes] })
        }
        "constexpr_cast" if is_old("source_val") => {
            let source = parameter("source_val")?;
            if source.spec.dtype != Dtype::Float16 || source.spec.shape != weight.shape {
                return Err(unfit("source_val"));
            }
            Some(Raised { form: Form::Float16, parameters: vec![source.bytes] })
        }
        _ => None,
    })
}

//! The values of a compressed weight: every `constexpr_` operation, also those that feed each other.
//!
//! Arithmetic is that of coremltools' `decompress_weights`, in the weight's type T (float16 or float32), each operation
//! rounded to T: `(q - offset) * scale` (the older form takes the difference in float32), `lut[index]`, zeros where a mask
//! has zeros. What comes out is in the type that the operation's output states.

use bytes::Bytes;

use super::graph::{Graph, Source, constant};
use super::value::{BlobFiles, Tensor, TensorSpec};
use crate::error::{FormError, ValueError, WeightProblem};
use crate::format::dtype::Dtype;
use crate::kernels::boxes::Boxes;
use crate::kernels::{float16, pack_lsb};

/// As many operations as feed each other in a chain: more than any form has.
const MAX_CHAIN: usize = 8;

/// The elements of an operation's output.
pub(crate) fn evaluate(
    graph: &Graph<'_>,
    node: usize,
    output: usize,
    files: &BlobFiles,
) -> Result<Tensor, WeightProblem> {
    Evaluation { graph, files }.output(node, output, 0)
}

struct Evaluation<'a, 'm> {
    graph: &'a Graph<'m>,
    files: &'a BlobFiles,
}

impl Evaluation<'_, '_> {
    fn output(&self, node: usize, output: usize, depth: usize) -> Result<Tensor, WeightProblem> {
        let operation = self.graph.nodes[node].operation;
        if let Some(value) = constant(operation) {
            return Ok(Tensor::of(value, self.files)?);
        }
        if depth == MAX_CHAIN {
            return Err(FormError::Chain.into());
        }
        let stated = |output: usize| {
            let value = operation.outputs.get(output).and_then(|value| value.r#type.as_ref());
            TensorSpec::of(value).ok_or(ValueError::NotATensor)
        };
        let parameter = |name: &str| self.parameter(node, name, depth);
        let optional = |name: &str| match self.graph.parameter(node, name) {
            Some(_) => parameter(name).map(Some),
            None => Ok(None),
        };
        let result = match (operation.r#type.as_str(), output) {
            ("constexpr_affine_dequantize", 0) => {
                let (data, scale) = (parameter("quantized_data")?, parameter("scale")?);
                affine(&data, &scale, optional("zero_point")?.as_ref(), self.axis(node, depth)?)?
            }
            ("constexpr_blockwise_shift_scale", 0) => {
                shift_scale(&parameter("data")?, &parameter("scale")?, optional("offset")?.as_ref())?
            }
            ("constexpr_lut_to_dense", 0) => {
                let (indices, lut) = (parameter("indices")?, parameter("lut")?);
                match optional("shape")? {
                    Some(shape) => dense_from_packed(&indices, &lut, &dimensions(&shape)?)?,
                    None => table(&indices, &lut, optional("vector_axis")?.as_ref())?,
                }
            }
            ("constexpr_sparse_to_dense", 0) => {
                let (data, mask) = (parameter("nonzero_data")?, parameter("mask")?);
                let mask = match optional("shape")? {
                    Some(shape) => mask_of_bytes(mask, dimensions(&shape)?)?,
                    None => mask,
                };
                scatter(&data, &mask)?
            }
            ("constexpr_cast", 0) => {
                let source = parameter("source_val")?;
                in_type(&source, stated(0)?.dtype)?
            }
            ("constexpr_lut_to_sparse", 0) => parameter("indices_mask")?,
            ("constexpr_lut_to_sparse", 1) => {
                let mask = parameter("indices_mask")?;
                let lut = parameter("lut")?;
                let vector_axis = optional("vector_axis")?;
                table_of_sparse(&parameter("indices_nonzero_data")?, &mask, &lut, vector_axis.as_ref())?
            }
            ("constexpr_sparse_blockwise_shift_scale", 0) => parameter("data_mask")?,
            ("constexpr_sparse_blockwise_shift_scale", 1) => {
                let (mask, data) = (parameter("data_mask")?, parameter("nonzero_data")?);
                let dense = scatter(&data, &mask)?;
                let dense = shift_scale(&dense, &parameter("scale")?, optional("offset")?.as_ref())?;
                gather(&dense, &mask)?
            }
            _ => return Err(FormError::Operation { operation: operation.r#type.clone() }.into()),
        };
        let expected = stated(output)?;
        if result.spec != expected {
            return Err(FormError::Output {
                operation: operation.r#type.clone(),
                found: result.spec.shape,
                expected: expected.shape,
            }
            .into());
        }
        Ok(result)
    }

    fn parameter(&self, node: usize, name: &str, depth: usize) -> Result<Tensor, WeightProblem> {
        match self.graph.parameter(node, name) {
            Some(Source::Value(value)) => Ok(Tensor::of(value, self.files)?),
            Some(Source::Node { node, output }) => self.output(node, output, depth + 1),
            Some(Source::Outside) | None => Err(ValueError::Missing { parameter: name.to_owned() }.into()),
        }
    }

    fn axis(&self, node: usize, depth: usize) -> Result<i64, WeightProblem> {
        let axis = self.parameter(node, "axis", depth)?.integers();
        axis.and_then(|axis| axis.first().copied()).ok_or(FormError::Parameter { parameter: "axis" }.into())
    }
}

/// A parameter that does not fit the others.
fn unfit(parameter: &'static str) -> WeightProblem {
    FormError::Parameter { parameter }.into()
}

/// A tensor's shape, from the parameter that states it.
fn dimensions(shape: &Tensor) -> Result<Vec<usize>, WeightProblem> {
    let dims = shape.integers().ok_or_else(|| unfit("shape"))?;
    let dims = dims.into_iter().map(|dim| usize::try_from(dim).ok()).collect::<Option<Vec<_>>>();
    let dims = dims.filter(|dims| dims.iter().try_fold(1_usize, |len, &dim| len.checked_mul(dim)).is_some());
    dims.ok_or_else(|| unfit("shape"))
}

/// The elements as float32: exact for every type that a compressed weight has.
fn floats(tensor: &Tensor) -> Result<Vec<f32>, WeightProblem> {
    let mut out = vec![0.0; tensor.spec.len()];
    match tensor.spec.dtype {
        dtype if dtype.is_float() => float16::floats(&tensor.bytes, dtype == Dtype::Float16, &mut out),
        Dtype::Int32 => {
            for (out, &bytes) in out.iter_mut().zip(tensor.bytes.as_chunks().0) {
                *out = i32::from_le_bytes(bytes) as f32;
            }
        }
        dtype if (1..=8).contains(&dtype.bits()) && dtype != Dtype::Bool => {
            let codes = codes(tensor);
            for (out, &code) in out.iter_mut().zip(&codes) {
                *out = if dtype.is_signed() { f32::from(code as i8) } else { f32::from(code) };
            }
        }
        _ => return Err(FormError::Type { found: tensor.spec.dtype }.into()),
    }
    Ok(out)
}

/// The elements of a type of at most 8 bits, one a byte, with their signs.
fn codes(tensor: &Tensor) -> Vec<u8> {
    let (dtype, len) = (tensor.spec.dtype, tensor.spec.len());
    if dtype.bits() == 8 {
        return tensor.bytes.to_vec();
    }
    let mut codes = vec![0; len];
    pack_lsb::unpack(&tensor.bytes, dtype.bits(), &mut codes);
    if dtype.is_signed() {
        pack_lsb::extend_sign(&mut codes, dtype.bits());
    }
    codes
}

/// Values as a tensor of float16 or float32, rounded.
fn tensor(dtype: Dtype, shape: &[usize], values: &[f32]) -> Tensor {
    let mut bytes = vec![0; dtype.byte_len(values.len()).unwrap_or_default()];
    float16::to_bytes(values, dtype == Dtype::Float16, &mut bytes);
    Tensor::new(dtype, shape, bytes)
}

pub(crate) fn in_type(source: &Tensor, dtype: Dtype) -> Result<Tensor, WeightProblem> {
    if !dtype.is_float() {
        return Err(FormError::Type { found: dtype }.into());
    }
    Ok(tensor(dtype, &source.spec.shape, &floats(source)?))
}

/// How a tensor of parameters (scales, tables) cuts another one: `None` if it does not.
fn boxes(shape: &[usize], parameters: &[usize]) -> Option<Boxes> {
    if shape.len() != parameters.len() {
        return None;
    }
    let block = |(&size, &count): (&usize, &usize)| (count > 0 && size % count == 0).then(|| size / count);
    Boxes::new(shape, &shape.iter().zip(parameters).map(block).collect::<Option<Vec<_>>>()?)
}

/// `(data - offset) * scale`; `round_difference` rounds what is in the brackets to a half.
fn scaled(data: &[f32], boxes: &Boxes, scale: &[f32], offset: Option<&[f32]>, round_difference: bool) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    boxes.segments(0..data.len(), |segment| {
        let (data, out) = (&data[segment.range.clone()], &mut out[segment.range]);
        for (index, (out, &value)) in out.iter_mut().zip(data).enumerate() {
            let number = if segment.lanes { segment.first + index } else { segment.first };
            let difference = value - offset.map_or(0.0, |offset| offset[number]);
            let difference = if round_difference { float16::rounded(difference) } else { difference };
            *out = difference * scale[number];
        }
    });
    out
}

fn affine(data: &Tensor, scale: &Tensor, zero_point: Option<&Tensor>, axis: i64) -> Result<Tensor, WeightProblem> {
    if !scale.spec.dtype.is_float() {
        return Err(unfit("scale"));
    }
    let shape = &data.spec.shape;
    let count = scale.spec.len();
    let mut parameters = vec![1; shape.len()];
    if count != 1 || scale.spec.shape.len() == 1 && !shape.is_empty() {
        let rank = shape.len() as i64;
        let axis = if axis < 0 { axis + rank } else { axis };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis < shape.len()).ok_or_else(|| unfit("axis"))?;
        if count != 1 && count != shape[axis] {
            return Err(unfit("scale"));
        }
        parameters[axis] = count;
    }
    let (values, scales) = (floats(data)?, floats(scale)?);
    let offsets = zero_point.map(floats).transpose()?.map(|offsets| match offsets.as_slice() {
        // One zero point for all scales.
        &[offset] => vec![offset; count],
        _ => offsets,
    });
    if offsets.as_ref().is_some_and(|offsets| offsets.len() != count) {
        return Err(unfit("zero_point"));
    }
    if values.is_empty() {
        return Ok(tensor(scale.spec.dtype, shape, &[]));
    }
    let boxes = boxes(shape, &parameters).ok_or_else(|| unfit("scale"))?;
    Ok(tensor(scale.spec.dtype, shape, &scaled(&values, &boxes, &scales, offsets.as_deref(), false)))
}

pub(crate) fn shift_scale(data: &Tensor, scale: &Tensor, offset: Option<&Tensor>) -> Result<Tensor, WeightProblem> {
    let dtype = scale.spec.dtype;
    if !dtype.is_float() {
        return Err(unfit("scale"));
    }
    if offset.is_some_and(|offset| offset.spec.shape != scale.spec.shape) {
        return Err(unfit("offset"));
    }
    let boxes = boxes(&data.spec.shape, &scale.spec.shape).ok_or_else(|| unfit("scale"))?;
    let (values, scales) = (floats(data)?, floats(scale)?);
    let offsets = offset.map(floats).transpose()?;
    let values = scaled(&values, &boxes, &scales, offsets.as_deref(), dtype == Dtype::Float16);
    Ok(tensor(dtype, &data.spec.shape, &values))
}

/// The table of the older form: one for all, whose indices are packed bits.
fn dense_from_packed(indices: &Tensor, lut: &Tensor, shape: &[usize]) -> Result<Tensor, WeightProblem> {
    let entries = lut.spec.len();
    let nbits = match entries {
        2 | 4 | 8 | 16 | 64 | 256 => entries.ilog2() as u8,
        _ => return Err(unfit("lut")),
    };
    let dtype = Dtype::indices(nbits).ok_or_else(|| unfit("lut"))?;
    let len = shape.iter().product::<usize>();
    if dtype.byte_len(len) != Some(indices.bytes.len()) {
        return Err(unfit("indices"));
    }
    let indices = Tensor::new(dtype, shape, indices.bytes.clone());
    let mut of_all = vec![1; shape.len()];
    of_all.extend([entries, 1]);
    table(&indices, &Tensor::new(lut.spec.dtype, of_all, lut.bytes.clone()), None)
}

/// The bytes of one element of a table, which may be of any type of whole bytes.
fn element_size(lut: &Tensor) -> Result<usize, WeightProblem> {
    let bits = lut.spec.dtype.bits();
    if bits < 8 { Err(FormError::Type { found: lut.spec.dtype }.into()) } else { Ok(usize::from(bits) / 8) }
}

pub(crate) fn table(indices: &Tensor, lut: &Tensor, vector_axis: Option<&Tensor>) -> Result<Tensor, WeightProblem> {
    let size = element_size(lut)?;
    let shape = &indices.spec.shape;
    let (groups, rest) = lut.spec.shape.split_at_checked(shape.len()).ok_or_else(|| unfit("lut"))?;
    let &[entries, vector] = rest else { return Err(unfit("lut")) };
    let nbits = indices.spec.dtype.bits();
    if indices.spec.dtype != Dtype::indices(nbits).ok_or_else(|| unfit("indices"))? || entries != 1 << nbits {
        return Err(unfit("lut"));
    }
    let codes = codes(indices);
    let boxes = boxes(shape, groups).ok_or_else(|| unfit("lut"))?;
    // Every index with the number of its table, as an offset to the vector.
    let mut rows = vec![0_usize; codes.len()];
    boxes.segments(0..codes.len(), |segment| {
        for (index, element) in segment.range.enumerate() {
            let number = if segment.lanes { segment.first + index } else { segment.first };
            rows[element] = (number * entries + usize::from(codes[element])) * vector;
        }
    });
    let mut out_shape = shape.clone();
    if vector == 0 {
        return Err(unfit("lut"));
    }
    let axis = if vector == 1 {
        0
    } else {
        let axis = vector_axis.and_then(Tensor::integers).and_then(|axis| axis.first().copied());
        let axis = axis.map(|axis| if axis < 0 { axis + shape.len() as i64 } else { axis });
        axis.and_then(|axis| usize::try_from(axis).ok())
            .filter(|&axis| axis < shape.len())
            .ok_or_else(|| unfit("vector_axis"))?
    };
    let inner: usize = shape.get(axis + 1..).unwrap_or_default().iter().product();
    if let Some(size) = out_shape.get_mut(axis) {
        *size = size.checked_mul(vector).ok_or_else(|| unfit("lut"))?;
    }
    let spec = TensorSpec::new(lut.spec.dtype, out_shape);
    let mut bytes = Vec::with_capacity(codes.len().saturating_mul(vector).saturating_mul(size));
    if vector == 1 {
        for row in rows {
            bytes.extend_from_slice(&lut.bytes[row * size..][..size]);
        }
    } else {
        for rows in rows.chunks(inner.max(1)) {
            for element in 0..vector {
                for row in rows {
                    bytes.extend_from_slice(&lut.bytes[(row + element) * size..][..size]);
                }
            }
        }
    }
    Ok(Tensor { spec, bytes: bytes.into() })
}

/// The mask of the older form, bytes of packed bits, as one of bits.
fn mask_of_bytes(mask: Tensor, shape: Vec<usize>) -> Result<Tensor, WeightProblem> {
    let spec = TensorSpec::new(Dtype::Uint1, shape);
    if spec.byte_len() != mask.bytes.len() {
        return Err(unfit("mask"));
    }
    Ok(Tensor { spec, bytes: mask.bytes })
}

/// Which elements a mask keeps.
fn kept(mask: &Tensor) -> Result<Vec<u8>, WeightProblem> {
    if mask.spec.dtype != Dtype::Uint1 { Err(unfit("mask")) } else { Ok(codes(mask)) }
}

/// Elements put where a mask has ones, zeros elsewhere.
pub(crate) fn scatter(data: &Tensor, mask: &Tensor) -> Result<Tensor, WeightProblem> {
    let keeps = kept(mask)?;
    let ones: usize = keeps.iter().map(|&bit| usize::from(bit)).sum();
    if ones != data.spec.len() {
        return Err(FormError::Ones { ones, found: data.spec.len() }.into());
    }
    let dtype = data.spec.dtype;
    let bytes: Bytes = if dtype.bits() < 8 {
        let mut codes = codes(data).into_iter();
        let dense: Vec<u8> = keeps.iter().map(|&bit| if bit == 1 { codes.next().unwrap_or(0) } else { 0 }).collect();
        packed(&dense, dtype)
    } else {
        let size = usize::from(dtype.bits()) / 8;
        let mut elements = data.bytes.chunks_exact(size);
        let mut dense = vec![0; keeps.len() * size];
        for (out, _) in dense.chunks_exact_mut(size).zip(&keeps).filter(|(_, bit)| **bit == 1) {
            out.copy_from_slice(elements.next().unwrap_or_default());
        }
        dense.into()
    };
    Ok(Tensor { spec: TensorSpec::new(dtype, mask.spec.shape.clone()), bytes })
}

/// The elements where a mask has ones.
fn gather(dense: &Tensor, mask: &Tensor) -> Result<Tensor, WeightProblem> {
    let size = usize::from(dense.spec.dtype.bits()) / 8;
    let keeps = kept(mask)?;
    let elements = dense.bytes.chunks_exact(size.max(1)).zip(&keeps).filter(|(_, bit)| **bit == 1);
    let bytes: Vec<u8> = elements.flat_map(|(element, _)| element).copied().collect();
    let len = bytes.len() / size.max(1);
    Ok(Tensor { spec: TensorSpec::new(dense.spec.dtype, [len]), bytes: bytes.into() })
}

fn packed(codes: &[u8], dtype: Dtype) -> Bytes {
    let mut bytes = vec![0; dtype.byte_len(codes.len()).unwrap_or_default()];
    pack_lsb::pack(codes, dtype.bits(), &mut bytes);
    bytes.into()
}

/// The values of a table where a mask has ones: with vectors, an index stands for several of them.
fn table_of_sparse(
    indices: &Tensor,
    mask: &Tensor,
    lut: &Tensor,
    vector_axis: Option<&Tensor>,
) -> Result<Tensor, WeightProblem> {
    let dense = table(&scatter(indices, mask)?, lut, vector_axis)?;
    if dense.spec.shape == mask.spec.shape {
        return gather(&dense, mask);
    }
    // A one of the mask stands for a whole vector.
    let vector = lut.spec.shape.last().copied().unwrap_or(1);
    let mut shape = vec![1; mask.spec.shape.len()];
    shape.extend([2, vector]);
    let bits: Vec<u8> = [vec![0; vector], vec![1; vector]].concat();
    let widened = table(mask, &Tensor::new(Dtype::Uint8, shape, bits), vector_axis)?;
    gather(
        &dense,
        &Tensor {
            spec: TensorSpec::new(Dtype::Uint1, widened.spec.shape),
            bytes: packed(&widened.bytes, Dtype::Uint1),
        },
    )
}

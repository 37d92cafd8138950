//! The forms that are written: which operation, with which parameters, of which types and shapes.
//!
//! All of it follows from the form alone, before a value is computed: so sizes and offsets in weight.bin are known when
//! the first weight is written.
//!
//! | form | CoreML6, CoreML7: parameters are attributes | from CoreML8 on: parameters are inputs |
//! |---|---|---|
//! | linear | `constexpr_affine_dequantize`, 8 bits, one scale or one for each channel | `constexpr_blockwise_shift_scale` |
//! | table | `constexpr_lut_to_dense`, one table of 2, 4, 16, 64 or 256 entries | the same, also 8 entries, and a table for each group |
//! | sparse | `constexpr_sparse_to_dense` | the same, the mask in the weight's shape |
//! | float16 of a float32 weight | `constexpr_cast` | the same |

use super::opset::{Opset, bind};
use super::value::{self, Tensor, TensorSpec};
use crate::format::dtype::Dtype;
use crate::format::proto::mil_spec::{Operation, Value};
use crate::kernels::shift_scale::Grid;

/// In which form a weight is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// As it is, or decompressed: a const.
    Dense,
    /// float16, cast to float32 where it is used.
    Float16,
    /// `(code - zero point) * scale`.
    Linear {
        /// The type of the codes: int4, uint4, int8 or uint8.
        dtype: Dtype,
        /// Whether a zero point is stored.
        has_offset: bool,
        /// The box of values that share a scale.
        block: Vec<usize>,
    },
    /// `table[code]`.
    Table {
        /// Bits of a code: 1, 2, 3, 4, 6 or 8.
        nbits: u8,
        /// The box of values that share a table.
        block: Vec<usize>,
    },
    /// A mask, and the values that it keeps.
    Sparse {
        /// How many it keeps.
        ones: usize,
    },
}

/// A parameter of an operation that makes a weight.
pub(crate) type Parameter = (&'static str, TensorSpec);

impl Form {
    /// Linear codes on a grid.
    pub(crate) fn linear(grid: Grid, block: Vec<usize>) -> Self {
        let dtype = match (grid.nbits, grid.signed) {
            (4, true) => Dtype::Int4,
            (4, false) => Dtype::Uint4,
            (_, true) => Dtype::Int8,
            (_, false) => Dtype::Uint8,
        };
        Self::Linear { dtype, has_offset: !(grid.signed && grid.symmetric), block }
    }

    /// The oldest opset that has it, for a weight of a shape.
    pub(crate) fn opset(&self, shape: &[usize]) -> Opset {
        match self {
            Self::Dense => Opset::CORE_ML_5,
            Self::Float16 | Self::Sparse { .. } => Opset::CORE_ML_6,
            Self::Linear { dtype, block, .. } if dtype.bits() == 8 && channel_axis(shape, block).is_ok() => {
                Opset::CORE_ML_6
            }
            Self::Table { nbits, block } if *nbits != 3 && block == shape => Opset::CORE_ML_6,
            Self::Linear { .. } | Self::Table { .. } => Opset::CORE_ML_8,
        }
    }

    /// The operation that makes the weight.
    pub(crate) fn operation(&self, opset: Opset) -> &'static str {
        match self {
            Self::Dense => "const",
            Self::Float16 => "constexpr_cast",
            Self::Linear { .. } if opset.has_inputs() => "constexpr_blockwise_shift_scale",
            Self::Linear { .. } => "constexpr_affine_dequantize",
            Self::Table { .. } => "constexpr_lut_to_dense",
            Self::Sparse { .. } => "constexpr_sparse_to_dense",
        }
    }

    /// The parameters that hold the weight, in the order in which they are written. Those that say nothing of its values
    /// (axis, shape) are not among them.
    pub(crate) fn parameters(&self, weight: &TensorSpec, opset: Opset) -> Vec<Parameter> {
        let TensorSpec { dtype: t, shape } = weight;
        let spec = |dtype, shape: &[usize]| TensorSpec::new(dtype, shape);
        match self {
            Self::Dense => vec![("val", weight.clone())],
            Self::Float16 => vec![("source_val", spec(Dtype::Float16, shape))],
            Self::Linear { dtype, has_offset, block } if opset.has_inputs() => {
                let scales = counts(shape, block);
                let mut all = vec![("data", spec(*dtype, shape)), ("scale", spec(*t, &scales))];
                if *has_offset {
                    all.push(("offset", spec(*dtype, &scales)));
                }
                all
            }
            Self::Linear { dtype, block, .. } => {
                let scales = match channel_axis(shape, block) {
                    Ok(Some(axis)) => vec![shape[axis]],
                    _ => Vec::new(),
                };
                vec![
                    ("quantized_data", spec(*dtype, shape)),
                    ("scale", spec(*t, &scales)),
                    ("zero_point", spec(*dtype, &scales)),
                ]
            }
            Self::Table { nbits, block } => {
                let entries = 1 << nbits;
                if opset.has_inputs() {
                    let mut lut = counts(shape, block);
                    lut.extend([entries, 1]);
                    let indices = Dtype::indices(*nbits).unwrap_or(Dtype::Uint8);
                    vec![("indices", spec(indices, shape)), ("lut", spec(*t, &lut))]
                } else {
                    let packed = crate::kernels::pack::packed_len(weight.len(), *nbits);
                    vec![("indices", spec(Dtype::Uint8, &[packed])), ("lut", spec(*t, &[entries]))]
                }
            }
            Self::Sparse { ones } => {
                let mask = if opset.has_inputs() {
                    spec(Dtype::Uint1, shape)
                } else {
                    spec(Dtype::Uint8, &[weight.len().div_ceil(8)])
                };
                vec![("nonzero_data", spec(*t, &[*ones])), ("mask", mask)]
            }
        }
    }

    /// Bytes that a weight takes in this form in weight.bin, metadata and alignment counted, and of its numbers in the
    /// program itself.
    pub(crate) fn stored_len(&self, weight: &TensorSpec, opset: Opset) -> u64 {
        self.parameters(weight, opset).iter().map(|(_, spec)| stored_len(spec)).sum()
    }

    /// Turns an operation into the one that makes the weight, from the values of its parameters. Its outputs stay.
    pub(crate) fn put(
        &self,
        operation: &mut Operation,
        weight: &TensorSpec,
        opset: Opset,
        parameters: Vec<(&'static str, Value)>,
    ) {
        let outputs = std::mem::take(&mut operation.outputs);
        let name = operation.attributes.remove("name");
        let name = name.unwrap_or_else(|| value::string_value(outputs.first().map_or("", |output| &output.name)));
        *operation = Operation { r#type: self.operation(opset).to_owned(), outputs, ..Operation::default() };
        operation.attributes.insert("name".to_owned(), name);
        let as_inputs = opset.has_inputs() && *self != Self::Dense;
        let mut add = |parameter: &str, value| {
            if as_inputs {
                bind(operation, parameter, value);
            } else {
                operation.attributes.insert(parameter.to_owned(), value);
            }
        };
        for (parameter, value) in parameters {
            add(parameter, value);
        }
        match self {
            Self::Float16 => add("output_dtype", value::string_value("fp32")),
            Self::Linear { block, .. } if !as_inputs => {
                let axis = channel_axis(&weight.shape, block).ok().flatten().unwrap_or(0);
                add("axis", Tensor::int32(axis as i32).to_immediate());
            }
            Self::Table { .. } | Self::Sparse { .. } if !as_inputs => add("shape", shape_value(&weight.shape)),
            _ => {}
        }
    }
}

/// Bytes of a value: in weight.bin if it goes there.
pub(crate) fn stored_len(spec: &TensorSpec) -> u64 {
    if spec.goes_to_blob() { super::blobs::stored_len(spec.dtype, spec.len()) } else { spec.byte_len() as u64 }
}

/// A shape as the older forms state it.
fn shape_value(shape: &[usize]) -> Value {
    let bytes: Vec<u8> = shape.iter().flat_map(|&size| (size as u32).to_le_bytes()).collect();
    Tensor::new(Dtype::Uint32, [shape.len()], bytes).to_immediate()
}

/// How many boxes there are along each axis.
fn counts(shape: &[usize], block: &[usize]) -> Vec<usize> {
    shape.iter().zip(block).map(|(size, block)| size / block).collect()
}

/// The axis along which each index has a box of its own, if that is all there is to the boxes; `None` for one box.
pub(crate) fn channel_axis(shape: &[usize], block: &[usize]) -> Result<Option<usize>, ()> {
    let mut cut = (0..shape.len()).filter(|&axis| block[axis] != shape[axis]);
    match (cut.next(), cut.next()) {
        (None, _) => Ok(None),
        (Some(axis), None) if block[axis] == 1 => Ok(Some(axis)),
        _ => Err(()),
    }
}

//! Values of a program as tensors: element type, shape and bytes, wherever they are kept.
//!
//! Bytes are those of weight.bin: little-endian, row-major, elements below a byte packed least significant bit first. An
//! immediate value has them in one of several lists of numbers; both ways lead to the same tensor.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::blobs::BlobFile;
use crate::error::{BlobError, ValueError};
use crate::format::dtype::Dtype;
use crate::format::proto::mil_spec::dimension::{ConstantDimension, Dimension as DimensionKind};
use crate::format::proto::mil_spec::tensor_value::{
    RepeatedBools, RepeatedBytes, RepeatedFloats, RepeatedInts, RepeatedStrings,
};
use crate::format::proto::mil_spec::value::immediate_value::Value as Immediate;
use crate::format::proto::mil_spec::value::{BlobFileValue, ImmediateValue, Value as Stored};
use crate::format::proto::mil_spec::value_type::Type;
use crate::format::proto::mil_spec::{Dimension, TensorType, TensorValue, Value, ValueType, tensor_value};

/// From how many elements on coremltools puts a tensor into weight.bin.
pub(crate) const BLOB_FROM: usize = 10;

/// The weight files of a model, under the names that programs give them.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlobFiles {
    files: BTreeMap<String, Result<BlobFile, BlobError>>,
}

impl BlobFiles {
    /// Adds a file.
    pub(crate) fn add(&mut self, name: &str, bytes: Bytes) {
        self.files.insert(name.to_owned(), BlobFile::new(name, bytes));
    }

    /// A file, if it is there and in order.
    pub(crate) fn file(&self, name: &str) -> Result<&BlobFile, BlobError> {
        match self.files.get(name) {
            Some(Ok(file)) => Ok(file),
            Some(Err(error)) => Err(error.clone()),
            None => Err(BlobError::NoFile { file_name: name.to_owned() }),
        }
    }
}

/// Element type and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TensorSpec {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
}

/// A tensor's elements with their type and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) spec: TensorSpec,
    pub(crate) bytes: Bytes,
}

impl TensorSpec {
    /// Of a type and shape.
    pub(crate) fn new(dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// What a type of the program says, if that is a tensor of known element type and fixed shape whose elements can be
    /// counted.
    pub(crate) fn of(value_type: Option<&ValueType>) -> Option<Self> {
        let Some(Type::TensorType(tensor)) = value_type?.r#type.as_ref() else { return None };
        let dtype = Dtype::from_program(tensor.data_type)?;
        let dims = tensor.dimensions.iter().map(|dimension| match dimension.dimension.as_ref()? {
            DimensionKind::Constant(ConstantDimension { size }) => usize::try_from(*size).ok(),
            DimensionKind::Unknown(_) => None,
        });
        let shape = dims.collect::<Option<Vec<_>>>()?;
        if usize::try_from(tensor.rank).ok() != Some(shape.len()) {
            return None;
        }
        let spec = Self { dtype, shape };
        // Of what cannot be counted in bytes, nothing can be read.
        spec.checked_len().and_then(|len| dtype.byte_len(len)).map(|_| spec)
    }

    fn checked_len(&self) -> Option<usize> {
        self.shape.iter().try_fold(1_usize, |len, &dim| len.checked_mul(dim))
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.checked_len().unwrap_or(usize::MAX)
    }

    /// Bytes of the elements.
    pub(crate) fn byte_len(&self) -> usize {
        self.dtype.byte_len(self.len()).unwrap_or(usize::MAX)
    }

    /// Whether coremltools would keep such a value in weight.bin, for a program whose constants may be of any type (from
    /// CoreML8 on) or not.
    pub(crate) fn goes_to_blob(&self) -> bool {
        self.len() >= BLOB_FROM
            && self.dtype.blob_number().is_some()
            && (self.dtype.is_float() || self.dtype.bits() <= 8)
    }

    /// The same in the program's words.
    pub(crate) fn to_type(&self) -> ValueType {
        let dimensions = self.shape.iter().map(|&size| Dimension {
            dimension: Some(DimensionKind::Constant(ConstantDimension { size: size as u64 })),
        });
        let tensor = TensorType {
            data_type: self.dtype.program_number(),
            rank: self.shape.len() as i64,
            dimensions: dimensions.collect(),
            ..TensorType::default()
        };
        ValueType { r#type: Some(Type::TensorType(tensor)) }
    }
}

impl Tensor {
    /// Of a type, shape and bytes.
    pub(crate) fn new(dtype: Dtype, shape: impl Into<Vec<usize>>, bytes: impl Into<Bytes>) -> Self {
        let tensor = Self { spec: TensorSpec::new(dtype, shape), bytes: bytes.into() };
        debug_assert_eq!(tensor.bytes.len(), tensor.spec.byte_len());
        tensor
    }

    /// A value of the program.
    pub(crate) fn of(value: &Value, files: &BlobFiles) -> Result<Self, ValueError> {
        let spec = TensorSpec::of(value.r#type.as_ref()).ok_or(ValueError::NotATensor)?;
        let bytes = match value.value.as_ref() {
            Some(Stored::BlobFileValue(blob)) => {
                files.file(&blob.file_name)?.blob(blob.offset, spec.dtype, spec.len())?
            }
            Some(Stored::ImmediateValue(ImmediateValue { value: Some(Immediate::Tensor(tensor)) })) => {
                immediate(&spec, tensor)?
            }
            _ => return Err(ValueError::NotATensor),
        };
        Ok(Self { spec, bytes })
    }

    /// The elements as whole numbers; `None` for floats.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        let bytes = &self.bytes[..];
        Some(match self.spec.dtype {
            Dtype::Int32 => bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect(),
            Dtype::Uint32 => bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b).into()).collect(),
            Dtype::Int16 => bytes.as_chunks().0.iter().map(|&b| i16::from_le_bytes(b).into()).collect(),
            Dtype::Uint16 => bytes.as_chunks().0.iter().map(|&b| u16::from_le_bytes(b).into()).collect(),
            Dtype::Int64 => bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
            Dtype::Int8 => bytes.iter().map(|&b| (b as i8).into()).collect(),
            Dtype::Uint8 => bytes.iter().map(|&b| b.into()).collect(),
            _ => return None,
        })
    }

    /// The tensor as an immediate value of the program.
    pub(crate) fn to_immediate(&self) -> Value {
        let chunks = |bytes: &[u8]| bytes.as_chunks::<4>().0.to_vec();
        let list = match self.spec.dtype {
            Dtype::Float32 => tensor_value::Value::Floats(RepeatedFloats {
                values: chunks(&self.bytes).into_iter().map(f32::from_le_bytes).collect(),
            }),
            Dtype::Int32 | Dtype::Int16 | Dtype::Uint16 => tensor_value::Value::Ints(RepeatedInts {
                values: self.integers().unwrap_or_default().into_iter().map(|value| value as i32).collect(),
            }),
            Dtype::Bool => {
                tensor_value::Value::Bools(RepeatedBools { values: self.bytes.iter().map(|&byte| byte != 0).collect() })
            }
            _ => tensor_value::Value::Bytes(RepeatedBytes { values: self.bytes.clone() }),
        };
        immediate_value(self.spec.to_type(), list)
    }

    /// An int32 of rank 0.
    pub(crate) fn int32(value: i32) -> Self {
        Self::new(Dtype::Int32, [], value.to_le_bytes().to_vec())
    }
}

/// A reference to weight.bin.
pub(crate) fn blob_value(spec: &TensorSpec, file_name: &str, offset: u64) -> Value {
    Value {
        r#type: Some(spec.to_type()),
        value: Some(Stored::BlobFileValue(BlobFileValue { file_name: file_name.to_owned(), offset })),
        ..Value::default()
    }
}

/// A bool of rank 0.
pub(crate) fn bool_value(value: bool) -> Value {
    Tensor::new(Dtype::Bool, [], vec![u8::from(value)]).to_immediate()
}

/// A text of rank 0.
pub(crate) fn string_value(text: &str) -> Value {
    let list = tensor_value::Value::Strings(RepeatedStrings { values: vec![text.to_owned()] });
    immediate_value(TensorSpec::new(Dtype::String, []).to_type(), list)
}

fn immediate_value(value_type: ValueType, list: tensor_value::Value) -> Value {
    let tensor = Immediate::Tensor(TensorValue { value: Some(list) });
    Value {
        r#type: Some(value_type),
        value: Some(Stored::ImmediateValue(ImmediateValue { value: Some(tensor) })),
        ..Value::default()
    }
}

/// The text of a value that is one.
pub(crate) fn text(value: &Value) -> Option<&str> {
    let Some(Stored::ImmediateValue(ImmediateValue { value: Some(Immediate::Tensor(tensor)) })) = &value.value else {
        return None;
    };
    match tensor.value.as_ref()? {
        tensor_value::Value::Strings(strings) => strings.values.first().map(String::as_str),
        _ => None,
    }
}

/// The elements of an immediate tensor, as weight.bin would hold them.
fn immediate(spec: &TensorSpec, tensor: &TensorValue) -> Result<Bytes, ValueError> {
    use tensor_value::Value as List;
    let elements = |found| ValueError::Elements { found, expected: spec.len(), shape: spec.shape.clone() };
    // An empty list may be left out.
    let Some(list) = tensor.value.as_ref() else {
        return if spec.len() == 0 { Ok(Bytes::new()) } else { Err(elements(0)) };
    };
    let found = match (list, spec.dtype) {
        (List::Bytes(list), _) => {
            let is_whole = list.values.len() == spec.byte_len();
            return if is_whole { Ok(list.values.clone()) } else { Err(elements(list.values.len())) };
        }
        (List::Floats(list), _) => list.values.len(),
        (List::Ints(list), _) => list.values.len(),
        (List::Bools(list), _) => list.values.len(),
        (List::Strings(list), _) => list.values.len(),
        (List::LongInts(list), _) => list.values.len(),
        (List::Doubles(list), _) => list.values.len(),
    };
    if found != spec.len() {
        return Err(elements(found));
    }
    let bytes: Vec<u8> = match (list, spec.dtype) {
        (List::Floats(list), Dtype::Float32) => list.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        (List::Floats(list), Dtype::Float16) => {
            list.values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
        }
        (List::Ints(list), Dtype::Int32) => list.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        (List::Ints(list), Dtype::Uint32) => list.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        (List::Ints(list), Dtype::Int16 | Dtype::Uint16) => {
            list.values.iter().flat_map(|&value| (value as i16).to_le_bytes()).collect()
        }
        (List::Ints(list), Dtype::Int8 | Dtype::Uint8) => list.values.iter().map(|&value| value as u8).collect(),
        (List::Bools(list), Dtype::Bool) => list.values.iter().map(|&value| u8::from(value)).collect(),
        (List::LongInts(list), Dtype::Int64) => list.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        (List::Doubles(list), Dtype::Float64) => list.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        _ => return Err(elements(0)),
    };
    Ok(bytes.into())
}

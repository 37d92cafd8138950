//! One stored weight: its form, whether its parts belong together, and its values.

use half::f16;

use crate::error::{QuantizeError, WeightError};
use crate::format::form::{Nbits, StoredForm};
use crate::kernels::Layout;
use crate::kernels::dequantize::{self, Stored};

use super::blocks::Blocks;
use super::buffers::Buffers;
use super::codes::Codes;

/// A weight in the form in which it is stored. `B` is bytes that were made, or a slice of them where they lie.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Payload<B = Vec<u8>> {
    /// Little-endian float32, four bytes a value.
    Float32(B),
    /// Little-endian IEEE half precision, two bytes a value.
    Float16(B),
    /// `value = code * scale + bias`, with one scale, or one for each block.
    Linear {
        /// One code a value.
        codes: Codes<B>,
        /// One scale, or one for each block.
        scale: Vec<f32>,
        /// As many biases as scales, or none.
        bias: Vec<f32>,
    },
    /// `value = table[code]`.
    LookupTable {
        /// One code a value.
        codes: Codes<B>,
        /// 2^bits entries.
        table: Vec<f32>,
    },
    /// `value = int8 * scale`, in two's complement, one byte a value.
    Int8 {
        /// The values.
        values: B,
        /// The only scale.
        scale: f32,
    },
}

impl<B: AsRef<[u8]>> Payload<B> {
    /// The form this is.
    pub fn form(&self) -> StoredForm {
        match self {
            Self::Float32(_) => StoredForm::Float32,
            Self::Float16(_) => StoredForm::Float16,
            Self::Linear { codes, scale, bias } => {
                StoredForm::Linear { nbits: codes.nbits(), scales: scale.len(), biases: bias.len() }
            }
            Self::LookupTable { codes, .. } => StoredForm::LookupTable { nbits: codes.nbits() },
            Self::Int8 { .. } => StoredForm::Int8,
        }
    }

    /// Fails unless this is a whole weight of `units` values, with one set of parameters or one for each of `blocks`:
    /// exact lengths, finite scales, biases and table entries.
    pub(crate) fn check(&self, units: usize, blocks: usize) -> Result<(), WeightError> {
        let length = |field, unit, found, expected| {
            if found == expected { Ok(()) } else { Err(WeightError::Length { field, unit, found, expected }) }
        };
        match self {
            Self::Float32(bytes) => {
                let found = bytes.as_ref().len();
                if found.is_multiple_of(4) {
                    length("floatValue", "values", found / 4, units)
                } else {
                    length("floatValue", "bytes", found, units.saturating_mul(4))
                }
            }
            Self::Float16(bytes) => length("float16Value", "bytes", bytes.as_ref().len(), units.saturating_mul(2)),
            Self::Linear { codes, scale, bias } => {
                code_count(codes.len(), units)?;
                if scale.len() != 1 && scale.len() != blocks {
                    let mut expected = vec![1, blocks];
                    expected.dedup();
                    return Err(WeightError::ScaleCount { field: "scale", found: scale.len(), expected });
                }
                if !bias.is_empty() && bias.len() != scale.len() {
                    let expected = vec![0, scale.len()];
                    return Err(WeightError::ScaleCount { field: "bias", found: bias.len(), expected });
                }
                finite("scale", scale)?;
                finite("bias", bias)
            }
            Self::LookupTable { codes, table } => {
                code_count(codes.len(), units)?;
                let (found, expected) = (table.len(), codes.nbits().levels());
                if found != expected {
                    return Err(QuantizeError::TableLength { found, expected }.into());
                }
                finite("floatValue of lookupTableQuantization", table)
            }
            Self::Int8 { values, scale } => {
                length("int8RawValue", "bytes", values.as_ref().len(), units)?;
                finite("scale", &[*scale])
            }
        }
    }

    /// The values as little-endian float32, four bytes each. `blocks` says which share a scale where there are several.
    pub(crate) fn decode(&self, blocks: &Blocks, buffers: &mut Buffers) -> Vec<u8> {
        let (payload, stored) = self.stored(blocks.layout());
        let mut values = buffers.take(4 * blocks.layout().len());
        dequantize::decode(payload, stored, &mut values);
        values
    }

    /// What the kernels make of it: bytes, and how to decode them.
    pub(crate) fn stored(&self, layout: Layout) -> (&[u8], Stored<'_>) {
        match self {
            Self::Float32(bytes) => (bytes.as_ref(), Stored::Float32),
            Self::Float16(bytes) => (bytes.as_ref(), Stored::Float16),
            Self::Linear { codes, scale, bias } => {
                let layout = if scale.len() > 1 { layout } else { Layout::per_tensor(codes.len()) };
                (codes.as_packed(), Stored::Linear { nbits: codes.nbits().get(), layout, scale, bias })
            }
            Self::LookupTable { codes, table } => {
                (codes.as_packed(), Stored::Table { nbits: codes.nbits().get(), table })
            }
            Self::Int8 { values, scale } => (values.as_ref(), Stored::Int8 { scale: *scale }),
        }
    }
}

impl Payload {
    /// float32 values.
    pub fn from_f32(values: &[f32]) -> Self {
        Self::Float32(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// float16 values.
    pub fn from_f16(values: &[f16]) -> Self {
        Self::Float16(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Gives the memory of the values or codes back.
    pub(crate) fn recycle(self, buffers: &mut Buffers) {
        buffers.give_back(match self {
            Self::Float32(bytes) | Self::Float16(bytes) | Self::Int8 { values: bytes, .. } => bytes,
            Self::Linear { codes, .. } | Self::LookupTable { codes, .. } => codes.into_packed(),
        });
    }
}

/// The codes of a stored weight, which must take exactly the bytes of `units` codes.
pub(crate) fn stored_codes(packed: &[u8], units: usize, nbits: Nbits) -> Result<Codes<&[u8]>, WeightError> {
    let (found, expected) = (packed.len(), nbits.packed_len(units));
    if found != expected {
        return Err(WeightError::Length { field: "rawValue", unit: "bytes", found, expected });
    }
    Ok(Codes::from_packed(packed, units, nbits))
}

fn code_count(found: usize, expected: usize) -> Result<(), WeightError> {
    if found == expected { Ok(()) } else { Err(QuantizeError::CodeCount { found, expected }.into()) }
}

fn finite(field: &'static str, values: &[f32]) -> Result<(), WeightError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(WeightError::NonFiniteParameter { field, index, value: values[index] }),
        None => Ok(()),
    }
}

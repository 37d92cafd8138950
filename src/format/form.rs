//! The forms in which Core ML stores a weight, and what makes each of them valid.

use std::fmt;

use crate::error::WeightError;
use crate::format::proto::quantization_params::QuantizationType;
use crate::format::proto::{LinearQuantizationParams, QuantizationParams, WeightParams};
use crate::kernels;
use crate::network::layers::Shape;

/// How many bits a code has: 1 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nbits(u8);

impl Nbits {
    /// One bit.
    pub const ONE: Self = Self(1);
    /// Two bits.
    pub const TWO: Self = Self(2);
    /// Four bits.
    pub const FOUR: Self = Self(4);
    /// Eight bits.
    pub const EIGHT: Self = Self(8);

    /// `None` outside 1 to 8.
    pub fn new(nbits: u32) -> Option<Self> {
        u8::try_from(nbits).ok().filter(|nbits| (1..=8).contains(nbits)).map(Self)
    }

    /// The number of bits.
    pub fn get(self) -> u8 {
        self.0
    }

    /// How many different codes there are: 2^bits.
    pub fn levels(self) -> usize {
        1 << self.0
    }

    /// Bytes that `units` packed codes take: the last byte is padded with zero bits.
    pub fn packed_len(self, units: usize) -> usize {
        kernels::pack::packed_len(units, self.0)
    }
}

impl From<Nbits> for u8 {
    fn from(nbits: Nbits) -> Self {
        nbits.0
    }
}

impl From<Nbits> for u32 {
    fn from(nbits: Nbits) -> Self {
        nbits.0.into()
    }
}

impl fmt::Display for Nbits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// In which form a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoredForm {
    /// Four bytes a value.
    Float32,
    /// Two bytes a value.
    Float16,
    /// Codes with `value = code * scale + bias`.
    Linear {
        /// Bits of a code.
        nbits: Nbits,
        /// Number of scales: 1, or one for each channel.
        scales: usize,
        /// Number of biases: 0, or as many as scales.
        biases: usize,
    },
    /// Codes with `value = table[code]`, a table of 2^bits float32 entries.
    LookupTable {
        /// Bits of a code.
        nbits: Nbits,
    },
    /// Signed 8-bit values with a single scale, for layers whose activations are quantized at run time.
    Int8,
}

impl StoredForm {
    /// Bytes that `units` values take in this form: codes, scales, biases and table; not the few bytes of protobuf
    /// around them.
    pub fn byte_len(&self, units: usize) -> usize {
        match *self {
            Self::Float32 => units.saturating_mul(4),
            Self::Float16 => units.saturating_mul(2),
            Self::Linear { nbits, scales, biases } => nbits.packed_len(units) + 4 * (scales + biases),
            Self::LookupTable { nbits } => nbits.packed_len(units) + 4 * nbits.levels(),
            Self::Int8 => units + 4,
        }
    }

    /// Whether values are stored as codes: everything but float32 and float16.
    pub fn is_quantized(&self) -> bool {
        !matches!(self, Self::Float32 | Self::Float16)
    }

    /// The lowest specificationVersion that reads this form.
    pub fn specification_version(&self) -> i32 {
        match self {
            Self::Float32 => 1,
            Self::Float16 => 2,
            Self::Linear { .. } | Self::LookupTable { .. } => 3,
            Self::Int8 => 5,
        }
    }

    /// The form in which `params` holds a weight of `shape`, everything about it checked: lengths, bits, the counts of
    /// scales and biases, the table. Whether the layer may have this form is another question.
    pub(crate) fn of(params: &WeightParams, shape: &Shape) -> Result<Self, WeightError> {
        let set: Vec<(&'static str, usize)> = [
            ("floatValue", params.float_value.len()),
            ("float16Value", params.float16_value.len()),
            ("rawValue", params.raw_value.len()),
            ("int8RawValue", params.int8_raw_value.len()),
        ]
        .into_iter()
        .filter(|(_, len)| *len > 0)
        .collect();
        let &[(field, found)] = &set[..] else {
            return Err(if set.is_empty() {
                WeightError::Missing { expected: shape.units }
            } else {
                WeightError::SeveralForms { forms: set.into_iter().map(|(field, _)| field).collect() }
            });
        };
        let length = |unit, expected| {
            if found == expected { Ok(()) } else { Err(WeightError::Length { field, unit, found, expected }) }
        };
        match field {
            "floatValue" => {
                length("values", shape.units)?;
                Ok(Self::Float32)
            }
            "float16Value" => {
                length("bytes", shape.units * 2)?;
                Ok(Self::Float16)
            }
            "rawValue" => {
                let quantization = quantization_of(params, field)?;
                let nbits = u32::try_from(quantization.number_of_bits)
                    .ok()
                    .and_then(Nbits::new)
                    .ok_or(WeightError::Bits { found: quantization.number_of_bits, expected: "1 to 8" })?;
                length("bytes", nbits.packed_len(shape.units))?;
                match &quantization.quantization_type {
                    Some(QuantizationType::LinearQuantization(linear)) => {
                        let (scales, biases) = linear_counts(linear, shape.channel_count())?;
                        Ok(Self::Linear { nbits, scales, biases })
                    }
                    Some(QuantizationType::LookupTableQuantization(table)) => {
                        let found = table.float_value.len();
                        if found != nbits.levels() {
                            return Err(
                                crate::error::QuantizeError::TableLength { found, expected: nbits.levels() }.into()
                            );
                        }
                        finite("floatValue of lookupTableQuantization", &table.float_value)?;
                        Ok(Self::LookupTable { nbits })
                    }
                    None => Err(WeightError::NoQuantization {
                        field,
                        missing: "linearQuantization or lookupTableQuantization",
                    }),
                }
            }
            _ => {
                let quantization = quantization_of(params, field)?;
                if quantization.number_of_bits != 8 {
                    return Err(WeightError::Bits { found: quantization.number_of_bits, expected: "8" });
                }
                length("bytes", shape.units)?;
                let Some(QuantizationType::LinearQuantization(linear)) = &quantization.quantization_type else {
                    return Err(WeightError::NoQuantization { field, missing: "linearQuantization" });
                };
                let (_, biases) = linear_counts(linear, 1)?;
                if biases > 0 {
                    return Err(WeightError::ScaleCount { field: "bias", found: biases, expected: vec![0] });
                }
                Ok(Self::Int8)
            }
        }
    }
}

fn quantization_of<'a>(params: &'a WeightParams, field: &'static str) -> Result<&'a QuantizationParams, WeightError> {
    params.quantization.as_ref().ok_or(WeightError::NoQuantization { field, missing: "quantization" })
}

/// The numbers of scales and biases, checked against the number of channels.
fn linear_counts(linear: &LinearQuantizationParams, channels: usize) -> Result<(usize, usize), WeightError> {
    let (scales, biases) = (linear.scale.len(), linear.bias.len());
    if scales != 1 && scales != channels {
        let mut expected = vec![1, channels];
        expected.dedup();
        return Err(WeightError::ScaleCount { field: "scale", found: scales, expected });
    }
    if biases != 0 && biases != scales {
        return Err(WeightError::ScaleCount { field: "bias", found: biases, expected: vec![0, scales] });
    }
    finite("scale", &linear.scale)?;
    finite("bias", &linear.bias)?;
    Ok((scales, biases))
}

fn finite(field: &'static str, values: &[f32]) -> Result<(), WeightError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(WeightError::NonFiniteParameter { field, index, value: values[index] }),
        None => Ok(()),
    }
}

impl fmt::Display for StoredForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Float32 => "float32".to_owned(),
            Self::Float16 => "float16".to_owned(),
            Self::Linear { nbits, scales: 1, .. } => format!("{nbits}-bit linear"),
            Self::Linear { nbits, scales, .. } => format!("{nbits}-bit linear x{scales}"),
            Self::LookupTable { nbits } => format!("{nbits}-bit table"),
            Self::Int8 => "int8".to_owned(),
        };
        f.pad(&text)
    }
}

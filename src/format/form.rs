//! The forms in which Core ML stores a weight, and what makes each of them valid.

use std::fmt;

/// How many bits a code has: 1 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Nbits(u8);

impl Nbits {
    /// One bit.
    pub const ONE: Self = Self(1);
    /// Two bits.
    pub const TWO: Self = Self(2);
    /// Three bits.
    pub const THREE: Self = Self(3);
    /// Four bits.
    pub const FOUR: Self = Self(4);
    /// Five bits.
    pub const FIVE: Self = Self(5);
    /// Six bits.
    pub const SIX: Self = Self(6);
    /// Seven bits.
    pub const SEVEN: Self = Self(7);
    /// Eight bits.
    pub const EIGHT: Self = Self(8);

    /// Every number of bits, from 1 to 8.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + Clone {
        (1..=8).map(Self)
    }

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
        (units * usize::from(self.0)).div_ceil(8)
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
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
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
    /// A compressed form of ML Programs.
    Program(ProgramForm),
}

/// In which compressed form a weight of an ML Program is stored. Scales and tables are of the weight's own type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ProgramForm {
    /// float16 values that become float32 when the program is loaded (`constexpr_cast`).
    Cast,
    /// Codes with `value = (code - offset) * scale` (`constexpr_affine_dequantize`, `constexpr_blockwise_shift_scale`).
    Linear {
        /// Bits of a code: 4 or 8.
        nbits: Nbits,
        /// Number of scales.
        scales: usize,
        /// Number of offsets: 0, or as many as scales.
        offsets: usize,
        /// Bytes of a scale: 2 or 4.
        float_bytes: usize,
    },
    /// Codes with `value = table[code]` (`constexpr_lut_to_dense`).
    Table {
        /// Bits of a code: 1, 2, 3, 4, 6 or 8.
        nbits: Nbits,
        /// Number of tables.
        tables: usize,
        /// Bytes of an entry: 2 or 4.
        float_bytes: usize,
    },
    /// A bit for each value, and those that are not zero (`constexpr_sparse_to_dense`).
    Sparse {
        /// Number of values that are stored.
        kept: usize,
        /// Bytes of a value: 2 or 4.
        float_bytes: usize,
    },
    /// Another one: vectors, or several operations that feed each other.
    Other {
        /// Bytes that it takes.
        bytes: usize,
    },
}

impl ProgramForm {
    fn byte_len(&self, units: usize) -> usize {
        match *self {
            Self::Cast => units.saturating_mul(2),
            Self::Linear { nbits, scales, offsets, float_bytes } => {
                nbits.packed_len(units) + float_bytes * scales + nbits.packed_len(offsets)
            }
            Self::Table { nbits, tables, float_bytes } => {
                nbits.packed_len(units) + float_bytes * nbits.levels() * tables
            }
            Self::Sparse { kept, float_bytes } => units.div_ceil(8) + float_bytes * kept,
            Self::Other { bytes } => bytes,
        }
    }
}

impl fmt::Display for ProgramForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cast => f.write_str("float16, cast"),
            Self::Linear { nbits, scales: 1, .. } => write!(f, "{nbits}-bit linear"),
            Self::Linear { nbits, scales, .. } => write!(f, "{nbits}-bit linear x{scales}"),
            Self::Table { nbits, tables: 1, .. } => write!(f, "{nbits}-bit table"),
            Self::Table { nbits, tables, .. } => write!(f, "{nbits}-bit table x{tables}"),
            Self::Sparse { .. } => f.write_str("sparse"),
            Self::Other { .. } => f.write_str("compressed"),
        }
    }
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
            Self::Program(form) => form.byte_len(units),
        }
    }

    /// Whether values are stored as codes, or not all of them: everything but float32 and float16.
    pub fn is_quantized(&self) -> bool {
        !matches!(self, Self::Float32 | Self::Float16 | Self::Program(ProgramForm::Cast))
    }

    /// The lowest specificationVersion that reads this form.
    pub fn specification_version(&self) -> i32 {
        match self {
            Self::Float32 => 1,
            Self::Float16 => 2,
            Self::Linear { .. } | Self::LookupTable { .. } => 3,
            Self::Int8 => 5,
            Self::Program(_) => 7,
        }
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
            Self::Program(form) => form.to_string(),
        };
        f.pad(&text)
    }
}

//! The forms in which Core ML stores a weight, and what makes each of them valid.

use std::fmt;

/// How many bits a code has: 1 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

//! Element types of ML Programs: their numbers in the program and in weight.bin, and their sizes.

use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// True or false.
    Bool,
    /// Text.
    String,
    /// IEEE half precision.
    Float16,
    /// IEEE single precision.
    Float32,
    /// IEEE double precision.
    Float64,
    /// The upper half of a float32.
    Bfloat16,
    /// 8-bit float, 4 bits of exponent.
    Float8E4M3Fn,
    /// 8-bit float, 5 bits of exponent.
    Float8E5M2,
    /// Signed, 4 bits.
    Int4,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// Unsigned, 1 bit.
    Uint1,
    /// Unsigned, 2 bits.
    Uint2,
    /// Unsigned, 3 bits.
    Uint3,
    /// Unsigned, 4 bits.
    Uint4,
    /// Unsigned, 6 bits.
    Uint6,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
}

/// One row for each type: its number in a program, in weight.bin if it can be there, its bits, its name in MIL.
const TYPES: [(Dtype, i32, Option<u32>, u8, &str); 22] = [
    (Dtype::Bool, 1, None, 8, "bool"),
    (Dtype::String, 2, None, 0, "string"),
    (Dtype::Float16, 10, Some(1), 16, "fp16"),
    (Dtype::Float32, 11, Some(2), 32, "fp32"),
    (Dtype::Float64, 12, None, 64, "fp64"),
    (Dtype::Bfloat16, 13, Some(5), 16, "bf16"),
    (Dtype::Int8, 21, Some(4), 8, "int8"),
    (Dtype::Int16, 22, Some(6), 16, "int16"),
    (Dtype::Int32, 23, Some(14), 32, "int32"),
    (Dtype::Int64, 24, None, 64, "int64"),
    (Dtype::Int4, 25, Some(8), 4, "int4"),
    (Dtype::Uint8, 31, Some(3), 8, "uint8"),
    (Dtype::Uint16, 32, Some(7), 16, "uint16"),
    (Dtype::Uint32, 33, Some(15), 32, "uint32"),
    (Dtype::Uint64, 34, None, 64, "uint64"),
    (Dtype::Uint4, 35, Some(11), 4, "uint4"),
    (Dtype::Uint2, 36, Some(10), 2, "uint2"),
    (Dtype::Uint1, 37, Some(9), 1, "uint1"),
    (Dtype::Uint6, 38, Some(13), 6, "uint6"),
    (Dtype::Uint3, 39, Some(12), 3, "uint3"),
    (Dtype::Float8E4M3Fn, 40, Some(16), 8, "fp8e4m3fn"),
    (Dtype::Float8E5M2, 41, Some(17), 8, "fp8e5m2"),
];

impl Dtype {
    fn row(self) -> &'static (Self, i32, Option<u32>, u8, &'static str) {
        TYPES.iter().find(|row| row.0 == self).unwrap_or(&TYPES[0])
    }

    /// The type with a number in `TensorType.dataType`.
    pub(crate) fn from_program(number: i32) -> Option<Self> {
        TYPES.iter().find(|row| row.1 == number).map(|row| row.0)
    }

    /// The type with a number in weight.bin.
    pub(crate) fn from_blob(number: u32) -> Option<Self> {
        TYPES.iter().find(|row| row.2 == Some(number)).map(|row| row.0)
    }

    /// Its number in `TensorType.dataType`.
    pub(crate) fn program_number(self) -> i32 {
        self.row().1
    }

    /// Its number in weight.bin; `None` if it cannot be there.
    pub(crate) fn blob_number(self) -> Option<u32> {
        self.row().2
    }

    /// Bits of an element; 0 for text.
    pub(crate) fn bits(self) -> u8 {
        self.row().3
    }

    /// Its name in MIL: `fp16`, `uint4`.
    pub fn name(self) -> &'static str {
        self.row().4
    }

    /// Whether elements are whole numbers below zero too.
    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Self::Int4 | Self::Int8 | Self::Int16 | Self::Int32 | Self::Int64)
    }

    /// Whether it is float16 or float32, the types of weights that are compressed.
    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::Float16 | Self::Float32)
    }

    /// The unsigned type with a number of bits, for the indices of tables.
    pub(crate) fn indices(nbits: u8) -> Option<Self> {
        Some(match nbits {
            1 => Self::Uint1,
            2 => Self::Uint2,
            3 => Self::Uint3,
            4 => Self::Uint4,
            6 => Self::Uint6,
            8 => Self::Uint8,
            _ => return None,
        })
    }

    /// Bytes that `count` elements take, those below a byte packed without gaps. `None` if no memory could hold them.
    pub(crate) fn byte_len(self, count: usize) -> Option<usize> {
        let bits = usize::from(self.bits());
        // count * bits / 8, rounded up, without a product that may overflow.
        (count / 8).checked_mul(bits)?.checked_add((count % 8 * bits).div_ceil(8))
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

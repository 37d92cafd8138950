//! Stored weights back to float32.
//!
//! Arithmetic: `w = q * scale + bias` in float64 from the stored float32 scale and bias, rounded once to float32; a table's
//! entries are copied bit for bit, and halves are exact. Codes are packed as [`pack`](super::pack) says, signed 8-bit
//! codes are two's complement bytes.

use super::encode::segments;
use super::{BLOCK, CHUNK, Layout, float16, pack, words, words_mut};
use multiversion::multiversion;
use rayon::prelude::*;

/// The form of stored weights, and what it takes to decode them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored<'a> {
    /// float32 as it is.
    Float32,
    /// IEEE halves.
    Float16,
    /// Packed codes: `w = q * scale + bias`.
    Linear {
        /// Bits of a code, 1 to 8.
        nbits: u8,
        /// The channels.
        layout: Layout,
        /// A value a channel.
        scale: &'a [f32],
        /// A value a channel, or empty, which stands for zeros.
        bias: &'a [f32],
    },
    /// Packed codes: `w = table[q]`.
    Table {
        /// Bits of a code, 1 to 8.
        nbits: u8,
        /// 2^`nbits` values.
        table: &'a [f32],
    },
    /// Signed bytes: `w = q * scale`.
    Int8 {
        /// The only scale.
        scale: f32,
    },
}

impl Stored<'_> {
    /// Bytes of `len` weights.
    pub(super) fn byte_len(self, len: usize) -> usize {
        match self {
            Self::Float32 => 4 * len,
            Self::Float16 => 2 * len,
            Self::Linear { nbits, .. } | Self::Table { nbits, .. } => pack::packed_len(len, nbits),
            Self::Int8 { .. } => len,
        }
    }

    /// Decodes up to [`CHUNK`] weights, the first of which is the weight `start`.
    pub(super) fn decode_chunk(self, payload: &[u8], start: usize, out: &mut [[u8; 4]]) {
        let mut codes = [0; CHUNK];
        let codes = &mut codes[..out.len()];
        match self {
            Self::Float32 => out.copy_from_slice(words(payload)),
            Self::Float16 => float16::decode_chunk(payload, out),
            Self::Linear { nbits, layout, scale, bias } => {
                pack::unpack(payload, nbits, codes);
                linear_chunk(codes, start, layout, scale, bias, out);
            }
            Self::Table { nbits, table } => {
                pack::unpack(payload, nbits, codes);
                Entries::new(table).decode(codes, out);
            }
            Self::Int8 { scale } => int8_chunk(payload, scale, out),
        }
    }
}

/// Decodes `payload` to float32: `out` has 4 bytes a weight.
pub(crate) fn decode(payload: &[u8], stored: Stored<'_>, out: &mut [u8]) {
    let out = words_mut(out);
    debug_assert_eq!(payload.len(), stored.byte_len(out.len()));
    let block = |(index, (payload, out)): (usize, (&[u8], &mut [[u8; 4]]))| {
        let chunks = payload.chunks(stored.byte_len(CHUNK)).zip(out.chunks_mut(CHUNK));
        for (chunk, (payload, out)) in chunks.enumerate() {
            stored.decode_chunk(payload, index * BLOCK + chunk * CHUNK, out);
        }
    };
    if out.len() <= BLOCK {
        block((0, (payload, out)));
    } else {
        payload.par_chunks(stored.byte_len(BLOCK)).zip(out.par_chunks_mut(BLOCK)).enumerate().for_each(block);
    }
}

#[multiversion(targets = "simd")]
fn linear_chunk(codes: &[u8], start: usize, layout: Layout, scale: &[f32], bias: &[f32], mut out: &mut [[u8; 4]]) {
    for (channel, codes) in segments(codes, start, layout) {
        let (segment, rest) = std::mem::take(&mut out).split_at_mut(codes.len());
        out = rest;
        let scale = f64::from(scale[channel]);
        let bias = bias.get(channel).copied().map_or(0.0, f64::from);
        decode_row(codes, scale, bias, segment);
    }
}

/// Decodes codes of one channel.
#[inline(always)]
pub(super) fn decode_row(codes: &[u8], scale: f64, bias: f64, out: &mut [[u8; 4]]) {
    for (weight, &code) in out.iter_mut().zip(codes) {
        *weight = ((f64::from(code) * scale + bias) as f32).to_le_bytes();
    }
}

/// The entries of a table, as many as a byte has values, so that any code is an index.
#[derive(Debug)]
pub(crate) struct Entries([[u8; 4]; 256]);

impl Entries {
    /// Zeros beyond the table.
    pub(crate) fn new(table: &[f32]) -> Self {
        let mut entries = [[0; 4]; 256];
        for (entry, value) in entries.iter_mut().zip(table) {
            *entry = value.to_le_bytes();
        }
        Self(entries)
    }

    /// Looks codes up.
    pub(crate) fn decode(&self, codes: &[u8], out: &mut [[u8; 4]]) {
        for (weight, &code) in out.iter_mut().zip(codes) {
            *weight = self.0[usize::from(code)];
        }
    }
}

#[multiversion(targets = "simd")]
fn int8_chunk(codes: &[u8], scale: f32, out: &mut [[u8; 4]]) {
    for (weight, &code) in out.iter_mut().zip(codes) {
        *weight = ((f64::from(code as i8) * f64::from(scale)) as f32).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{channel_of, floats, in_pool};
    use super::{Layout, Stored, decode, pack};

    /// Codes without a pattern, packed, for several blocks.
    fn codes(len: usize, nbits: u8) -> (Vec<u8>, Vec<u8>) {
        let codes: Vec<u8> = (0..len).map(|i| ((i * 2_654_435_761) >> 13) as u8 & (0xFF >> (8 - nbits))).collect();
        let mut packed = vec![0; pack::packed_len(len, nbits)];
        pack::pack(&codes, nbits, &mut packed);
        (codes, packed)
    }

    /// Decodes on one thread and on three, which must agree.
    fn decoded(payload: &[u8], stored: Stored<'_>, len: usize) -> Vec<f32> {
        let run = || {
            let mut out = vec![0xAA; 4 * len];
            decode(payload, stored, &mut out);
            out
        };
        let out = in_pool(1, run);
        assert!(out == in_pool(3, run));
        floats(&out)
    }

    #[test]
    fn linear_codes() {
        for (outer, count, inner) in [(1, 1, 5), (1, 7, 3), (2, 3, 4), (1, 300, 501), (3, 40, 1001), (0, 2, 3)] {
            let layout = Layout { slabs: 1, outer, count, inner };
            let scale: Vec<f32> = (0..count).map(|i| 0.1 + i as f32 / 3.0).collect();
            let bias: Vec<f32> = (0..count).map(|i| 0.7 - i as f32 / 7.0).collect();
            for nbits in 1..=8 {
                let (codes, packed) = codes(layout.len(), nbits);
                for bias in [&bias[..], &[]] {
                    let stored = Stored::Linear { nbits, layout, scale: &scale, bias };
                    let weights = decoded(&packed, stored, codes.len());
                    for (i, (weight, code)) in weights.into_iter().zip(&codes).enumerate() {
                        let channel = channel_of(layout)(i);
                        let bias = bias.get(channel).copied().unwrap_or(0.0);
                        let expected = f64::from(*code) * f64::from(scale[channel]) + f64::from(bias);
                        assert_eq!(weight, expected as f32, "weight {i}, {nbits} bits, {layout:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn table_codes() {
        for nbits in 1..=8 {
            let table: Vec<f32> = (0..1 << nbits).map(|i| (i as f32).sin()).collect();
            for len in [0, 1, 13, 70_001] {
                let (codes, packed) = codes(len, nbits);
                let expected: Vec<f32> = codes.iter().map(|&code| table[usize::from(code)]).collect();
                assert!(decoded(&packed, Stored::Table { nbits, table: &table }, len) == expected);
            }
        }
    }

    #[test]
    fn signed_codes() {
        let (codes, _) = codes(70_001, 8);
        let expected: Vec<f32> = codes.iter().map(|&code| f32::from(code as i8) * 0.25).collect();
        assert!(decoded(&codes, Stored::Int8 { scale: 0.25 }, codes.len()) == expected);
    }
}

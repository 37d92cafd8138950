//! Codes back to float32.
//!
//! Arithmetic: `w = q * scale + bias` in float64 from the stored float32 scale and bias, rounded once to float32; a table's
//! entries are copied bit for bit. Codes are packed as [`pack`](super::pack) says, signed 8-bit codes are two's
//! complement bytes.

use super::encode::segments;
use super::{BLOCK, CHUNK, Channels, pack, words_mut};
use multiversion::multiversion;
use rayon::prelude::*;

/// Decodes linear codes of `nbits` bits: `w = q * scale + bias`.
///
/// `scale` has a value a channel, `bias` too or is empty, which stands for zeros. `out` has 4 bytes a weight.
pub(crate) fn linear(codes: &[u8], nbits: u8, channels: Channels, scale: &[f32], bias: &[f32], out: &mut [u8]) {
    debug_assert_eq!(scale.len(), channels.count);
    debug_assert!(bias.is_empty() || bias.len() == scale.len());
    blocks(codes, nbits, words_mut(out), |start, codes, out| {
        linear_chunk(codes, start, channels, scale, bias, out);
    });
}

/// Decodes codes of `nbits` bits by a table of 2^`nbits` values. `out` has 4 bytes a weight.
pub(crate) fn table(codes: &[u8], nbits: u8, table: &[f32], out: &mut [u8]) {
    debug_assert_eq!(table.len(), 1 << nbits);
    // Of 256 entries, so that any byte is an index.
    let mut entries = [[0; 4]; 256];
    for (entry, value) in entries.iter_mut().zip(table) {
        *entry = value.to_le_bytes();
    }
    blocks(codes, nbits, words_mut(out), |_, codes, out| {
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = entries[usize::from(code)];
        }
    });
}

/// Decodes signed 8-bit codes: `w = q * scale`. `out` has 4 bytes a weight.
pub(crate) fn int8(codes: &[u8], scale: f32, out: &mut [u8]) {
    blocks(codes, 8, words_mut(out), |_, codes, out| int8_chunk(codes, scale, out));
}

/// Unpacks chunk by chunk and has `decode` turn (index of the first weight, codes) into weights.
fn blocks(packed: &[u8], nbits: u8, out: &mut [[u8; 4]], decode: impl Fn(usize, &[u8], &mut [[u8; 4]]) + Sync) {
    debug_assert_eq!(packed.len(), pack::packed_len(out.len(), nbits));
    let block = |(index, (packed, out)): (usize, (&[u8], &mut [[u8; 4]]))| {
        let mut codes = [0; CHUNK];
        let chunks = packed.chunks(pack::packed_len(CHUNK, nbits)).zip(out.chunks_mut(CHUNK));
        for (chunk, (packed, out)) in chunks.enumerate() {
            let codes = &mut codes[..out.len()];
            pack::unpack(packed, nbits, codes);
            decode(index * BLOCK + chunk * CHUNK, codes, out);
        }
    };
    if out.len() <= BLOCK {
        block((0, (packed, out)));
    } else {
        let packed = packed.par_chunks(pack::packed_len(BLOCK, nbits));
        packed.zip(out.par_chunks_mut(BLOCK)).enumerate().for_each(block);
    }
}

#[multiversion(targets = "simd")]
fn linear_chunk(codes: &[u8], start: usize, channels: Channels, scale: &[f32], bias: &[f32], out: &mut [[u8; 4]]) {
    let mut rest = out;
    for (channel, codes) in segments(codes, start, channels) {
        let (out, after) = rest.split_at_mut(codes.len());
        rest = after;
        let scale = f64::from(scale[channel]);
        let bias = bias.get(channel).copied().map_or(0.0, f64::from);
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = ((f64::from(code) * scale + bias) as f32).to_le_bytes();
        }
    }
}

#[multiversion(targets = "simd")]
fn int8_chunk(codes: &[u8], scale: f32, out: &mut [[u8; 4]]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = ((f64::from(code as i8) * f64::from(scale)) as f32).to_le_bytes();
    }
}

//! Codes of 1 to 8 bits, packed.
//!
//! Bit order: the first code is in the most significant bits of the first byte, each code most significant bit first,
//! codes follow each other without gaps (also across bytes), and zero bits fill the last byte. Integers only.

use multiversion::multiversion;

/// Bytes that `len` codes of `nbits` bits fill.
pub(crate) fn packed_len(len: usize, nbits: u8) -> usize {
    let nbits = usize::from(nbits);
    // (len * nbits).div_ceil(8), without the product that may overflow.
    len / 8 * nbits + (len % 8 * nbits).div_ceil(8)
}

/// Packs the low `nbits` (1 to 8) bits of each code into `out`, of [`packed_len`] bytes.
pub(crate) fn pack(codes: &[u8], nbits: u8, out: &mut [u8]) {
    pack_by(pack_groups, codes, nbits, out);
}

/// The inverse of [`pack`]: one code a byte. `packed` is of [`packed_len`] bytes for `out.len()` codes.
pub(crate) fn unpack(packed: &[u8], nbits: u8, out: &mut [u8]) {
    unpack_by(unpack_groups, packed, nbits, out);
}

/// Packs codes in groups of 8, in the bit order of `pack_groups`; what is left at the end is filled up with zeros.
pub(super) fn pack_by(pack_groups: impl Fn(&[[u8; 8]], u8, &mut [u8]), codes: &[u8], nbits: u8, out: &mut [u8]) {
    debug_assert!((1..=8).contains(&nbits));
    debug_assert_eq!(out.len(), packed_len(codes.len(), nbits));
    let (groups, rest) = codes.as_chunks::<8>();
    let (full, last) = out.split_at_mut(out.len().min(groups.len() * usize::from(nbits)));
    pack_groups(groups, nbits, full);
    if !rest.is_empty() {
        let mut group = [0; 8];
        group[..rest.len()].copy_from_slice(rest);
        let mut bytes = [0; 8];
        pack_groups(&[group], nbits, &mut bytes[..usize::from(nbits)]);
        for (out, byte) in last.iter_mut().zip(bytes) {
            *out = byte;
        }
    }
}

/// The inverse of [`pack_by`].
pub(super) fn unpack_by(unpack_groups: impl Fn(&[u8], u8, &mut [[u8; 8]]), packed: &[u8], nbits: u8, out: &mut [u8]) {
    debug_assert!((1..=8).contains(&nbits));
    debug_assert_eq!(packed.len(), packed_len(out.len(), nbits));
    let (groups, rest) = out.as_chunks_mut::<8>();
    let (full, last) = packed.split_at(packed.len().min(groups.len() * usize::from(nbits)));
    unpack_groups(full, nbits, groups);
    if !rest.is_empty() {
        let mut bytes = [0; 8];
        for (byte, &packed) in bytes.iter_mut().zip(last) {
            *byte = packed;
        }
        let mut group = [[0; 8]];
        unpack_groups(&bytes[..usize::from(nbits)], nbits, &mut group);
        rest.copy_from_slice(&group[0][..rest.len()]);
    }
}

/// Packs groups of 8 codes into `nbits` bytes each.
#[multiversion(targets = "simd")]
fn pack_groups(groups: &[[u8; 8]], nbits: u8, out: &mut [u8]) {
    #[inline(always)]
    fn each<const N: usize>(groups: &[[u8; 8]], out: &mut [u8]) {
        let keep = u64::from_ne_bytes([((1_u32 << N) - 1) as u8; 8]);
        for (group, out) in groups.iter().zip(out.as_chunks_mut::<N>().0) {
            // Codes of N bits in lanes of 8, pushed together to 2 N in 16, 4 N in 32, 8 N in 64 bits.
            let x = u64::from_be_bytes(*group) & keep;
            let x = ((x & 0xFF00_FF00_FF00_FF00) >> (8 - N)) | (x & 0x00FF_00FF_00FF_00FF);
            let x = ((x & 0xFFFF_0000_FFFF_0000) >> (16 - 2 * N)) | (x & 0x0000_FFFF_0000_FFFF);
            let x = ((x & 0xFFFF_FFFF_0000_0000) >> (32 - 4 * N)) | (x & 0x0000_0000_FFFF_FFFF);
            let bytes = (x << (64 - 8 * N)).to_be_bytes();
            out.copy_from_slice(&bytes[..N]);
        }
    }
    match nbits {
        1 => each::<1>(groups, out),
        2 => each::<2>(groups, out),
        3 => each::<3>(groups, out),
        4 => each::<4>(groups, out),
        5 => each::<5>(groups, out),
        6 => each::<6>(groups, out),
        7 => each::<7>(groups, out),
        _ => each::<8>(groups, out),
    }
}

/// Unpacks `nbits` bytes each into groups of 8 codes.
#[multiversion(targets = "simd")]
fn unpack_groups(packed: &[u8], nbits: u8, groups: &mut [[u8; 8]]) {
    #[inline(always)]
    fn each<const N: usize>(packed: &[u8], groups: &mut [[u8; 8]]) {
        let keep = u64::from_ne_bytes([((1_u32 << N) - 1) as u8; 8]);
        for (packed, group) in packed.as_chunks::<N>().0.iter().zip(groups) {
            let mut bytes = [0; 8];
            bytes[..N].copy_from_slice(packed);
            // The steps of packing, backwards.
            let x = u64::from_be_bytes(bytes) >> (64 - 8 * N);
            let x = ((x << (32 - 4 * N)) & 0xFFFF_FFFF_0000_0000) | (x & 0x0000_0000_FFFF_FFFF);
            let x = ((x << (16 - 2 * N)) & 0xFFFF_0000_FFFF_0000) | (x & 0x0000_FFFF_0000_FFFF);
            let x = ((x << (8 - N)) & 0xFF00_FF00_FF00_FF00) | (x & 0x00FF_00FF_00FF_00FF);
            *group = (x & keep).to_be_bytes();
        }
    }
    match nbits {
        1 => each::<1>(packed, groups),
        2 => each::<2>(packed, groups),
        3 => each::<3>(packed, groups),
        4 => each::<4>(packed, groups),
        5 => each::<5>(packed, groups),
        6 => each::<6>(packed, groups),
        7 => each::<7>(packed, groups),
        _ => each::<8>(packed, groups),
    }
}

#[cfg(test)]
mod tests {
    use super::{pack, packed_len, unpack};
    use proptest::prelude::*;

    /// Bit by bit, as the format defines it.
    fn pack_slowly(codes: &[u8], nbits: u8) -> Vec<u8> {
        let mut out = vec![0; (codes.len() * usize::from(nbits)).div_ceil(8)];
        let bits = codes.iter().flat_map(|code| (0..nbits).rev().map(move |bit| code >> bit & 1));
        for (at, bit) in bits.enumerate() {
            out[at / 8] |= bit << (7 - at % 8);
        }
        out
    }

    #[test]
    fn the_first_code_is_in_the_most_significant_bits() {
        let mut out = [0; 2];
        pack(&[0b101, 0b011, 0b110, 0b111], 3, &mut out);
        assert_eq!(out, [0b1010_1111, 0b0111_0000]);
    }

    proptest! {
        #[test]
        fn packing_follows_the_definition_and_unpacking_inverts_it(
            codes in prop::collection::vec(any::<u8>(), 0..300),
            nbits in 1_u8..=8,
        ) {
            let mut packed = vec![0xAA; packed_len(codes.len(), nbits)];
            pack(&codes, nbits, &mut packed);
            prop_assert_eq!(&packed, &pack_slowly(&codes, nbits));
            let mut unpacked = vec![0xAA; codes.len()];
            unpack(&packed, nbits, &mut unpacked);
            let low_bits: Vec<u8> = codes.iter().map(|code| code & (0xFF >> (8 - nbits))).collect();
            prop_assert_eq!(unpacked, low_bits);
        }
    }
}

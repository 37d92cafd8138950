//! Codes of 1 to 8 bits, packed as weight.bin holds them.
//!
//! Bit order: the first code is in the least significant bits of the first byte, each code least significant bit first,
//! codes follow each other without gaps (also across bytes), and zero bits fill the last byte. The mirror image of
//! [`pack`](super::pack), whose lengths are the same. Signed codes are two's complement: packing keeps their low bits.
//! Integers only.

use multiversion::multiversion;

use super::pack::{pack_by, unpack_by};

/// Packs the low `nbits` (1 to 8) bits of each code into `out`, of [`packed_len`](super::pack::packed_len) bytes.
pub(crate) fn pack(codes: &[u8], nbits: u8, out: &mut [u8]) {
    pack_by(pack_groups, codes, nbits, out);
}

/// The inverse of [`pack`]: one unsigned code a byte.
pub(crate) fn unpack(packed: &[u8], nbits: u8, out: &mut [u8]) {
    unpack_by(unpack_groups, packed, nbits, out);
}

/// Spreads the sign of two's complement codes of `nbits` bits over the whole byte.
pub(crate) fn extend_sign(codes: &mut [u8], nbits: u8) {
    let shift = 8 - u32::from(nbits);
    for code in codes {
        *code = (((*code << shift) as i8) >> shift) as u8;
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
            let x = u64::from_le_bytes(*group) & keep;
            let x = ((x & 0xFF00_FF00_FF00_FF00) >> (8 - N)) | (x & 0x00FF_00FF_00FF_00FF);
            let x = ((x & 0xFFFF_0000_FFFF_0000) >> (16 - 2 * N)) | (x & 0x0000_FFFF_0000_FFFF);
            let x = ((x & 0xFFFF_FFFF_0000_0000) >> (32 - 4 * N)) | (x & 0x0000_0000_FFFF_FFFF);
            out.copy_from_slice(&x.to_le_bytes()[..N]);
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
            let x = u64::from_le_bytes(bytes);
            let x = ((x << (32 - 4 * N)) & 0xFFFF_FFFF_0000_0000) | (x & (u64::MAX >> (64 - 4 * N)));
            let x = ((x << (16 - 2 * N)) & 0xFFFF_0000_FFFF_0000) | (x & 0x0000_FFFF_0000_FFFF);
            let x = ((x << (8 - N)) & 0xFF00_FF00_FF00_FF00) | (x & 0x00FF_00FF_00FF_00FF);
            *group = (x & keep).to_le_bytes();
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
    use super::super::pack::packed_len;
    use super::{extend_sign, pack, unpack};
    use proptest::prelude::*;

    /// Bit by bit, as the format defines it.
    fn pack_slowly(codes: &[u8], nbits: u8) -> Vec<u8> {
        let mut out = vec![0; (codes.len() * usize::from(nbits)).div_ceil(8)];
        let bits = codes.iter().flat_map(|code| (0..nbits).map(move |bit| code >> bit & 1));
        for (at, bit) in bits.enumerate() {
            out[at / 8] |= bit << (at % 8);
        }
        out
    }

    #[test]
    fn packed_bytes_are_those_that_core_ml_tools_write() {
        let cases: [(&[i8], u8, &[u8]); 5] = [
            (&[1, 2, -3, 4, 7, -8, 0], 4, &[0x21, 0x4d, 0x87, 0x00]),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1], 1, &[0x01, 0x06]),
            (&[1, 2, 3, 0, 3], 2, &[0x39, 0x03]),
            (&[1, 2, 3, 4, 5, 6, 7], 3, &[0xd1, 0x58, 0x1f]),
            (&[1, 2, 3, 63, 33], 6, &[0x81, 0x30, 0xfc, 0x21]),
        ];
        for (values, nbits, expected) in cases {
            let codes: Vec<u8> = values.iter().map(|&value| value as u8).collect();
            let mut packed = vec![0xAA; packed_len(codes.len(), nbits)];
            pack(&codes, nbits, &mut packed);
            assert_eq!(packed, expected, "{nbits} bits");
        }
    }

    #[test]
    fn signs_come_back() {
        let mut codes = [0b0001, 0b1000, 0b1111, 0b0111];
        extend_sign(&mut codes, 4);
        assert_eq!(codes.map(|code| code as i8), [1, -8, -1, 7]);
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

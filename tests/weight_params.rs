//! The hand-written decoder and encoder of `WeightParams` against prost's, on valid, damaged and arbitrary bytes.

#[path = "bodies/weight_params.rs"]
mod bodies;

use bodies::{decodes_like_prost, is_inside};
use bytes::Bytes;
use coreml_quant::proto::WeightParams;
use coreml_quant::weight_params::FloatValues;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

const FLOAT_VALUE: u32 = 1;
const BYTES_FIELDS: [u32; 3] = [2, 30, 31];
const QUANTIZATION: u32 = 40;
const IS_UPDATABLE: u32 = 50;
const FIELDS: [u32; 6] = [FLOAT_VALUE, 2, 30, 31, QUANTIZATION, IS_UPDATABLE];

fn key(tag: u32, wire_type: WireType) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(tag, wire_type, &mut bytes);
    bytes
}

fn varint(tag: u32, value: u64) -> Vec<u8> {
    let mut bytes = key(tag, WireType::Varint);
    encode_varint(value, &mut bytes);
    bytes
}

fn delimited(tag: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = key(tag, WireType::LengthDelimited);
    encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

fn fixed32(tag: u32, value: u32) -> Vec<u8> {
    [key(tag, WireType::ThirtyTwoBit), value.to_le_bytes().to_vec()].concat()
}

fn float_bytes(bits: &[u32]) -> Vec<u8> {
    bits.iter().flat_map(|bits| bits.to_le_bytes()).collect()
}

/// One run of packed floats, or one float that is not packed. Any bits: NaNs keep their payload.
fn floats(tag: u32) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u32>(), 0..8).prop_map(move |bits| delimited(tag, &float_bytes(&bits))),
        any::<u32>().prop_map(move |bits| fixed32(tag, bits)),
    ]
}

/// A quantization or a part of one: parts merge.
fn quantization() -> impl Strategy<Value = Vec<u8>> {
    let linear = vec(prop_oneof![floats(1), floats(2)], 0..3).prop_map(|fields| delimited(101, &fields.concat()));
    let table = vec(floats(1), 0..3).prop_map(|fields| delimited(102, &fields.concat()));
    let nbits = any::<u64>().prop_map(|nbits| varint(1, nbits));
    vec(prop_oneof![nbits, linear, table], 0..4).prop_map(|fields| delimited(QUANTIZATION, &fields.concat()))
}

fn unknown_field() -> impl Strategy<Value = Vec<u8>> {
    let tag = 60_u32..10_000;
    prop_oneof![
        (tag.clone(), any::<u64>()).prop_map(|(tag, value)| varint(tag, value)),
        (tag.clone(), any::<u32>()).prop_map(|(tag, value)| fixed32(tag, value)),
        (tag.clone(), vec(any::<u8>(), 0..8)).prop_map(|(tag, content)| delimited(tag, &content)),
        (tag, any::<u64>()).prop_map(|(tag, value)| {
            let inner = varint(FLOAT_VALUE, value);
            [key(tag, WireType::StartGroup), inner, key(tag, WireType::EndGroup)].concat()
        }),
    ]
}

/// A field as a valid message may have it, in any of the encodings that protobuf allows.
fn valid_field() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => floats(FLOAT_VALUE),
        2 => (0..BYTES_FIELDS.len(), vec(any::<u8>(), 0..16)).prop_map(|(i, content)| delimited(BYTES_FIELDS[i], &content)),
        2 => quantization(),
        1 => any::<u64>().prop_map(|value| varint(IS_UPDATABLE, value)),
        1 => unknown_field(),
    ]
}

/// A field that is wrong in one way.
fn broken_field() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        // Another wire type than the field's, whatever follows.
        (0..FIELDS.len(), 0_u32..8, vec(any::<u8>(), 0..12)).prop_map(|(i, wire_type, content)| {
            let mut bytes = Vec::new();
            encode_varint(u64::from(FIELDS[i] << 3 | wire_type), &mut bytes);
            [bytes, content].concat()
        }),
        // A run that ends within a float.
        vec(any::<u8>(), 1..15).prop_map(|content| delimited(FLOAT_VALUE, &content)),
        // A length beyond the end.
        (0..FIELDS.len(), any::<u64>(), vec(any::<u8>(), 0..12)).prop_map(|(i, len, content)| {
            let mut bytes = key(FIELDS[i], WireType::LengthDelimited);
            encode_varint(len, &mut bytes);
            [bytes, content].concat()
        }),
        vec(any::<u8>(), 0..12),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn valid_messages(fields in vec(valid_field(), 0..10)) {
        prop_assert!(decodes_like_prost(&fields.concat()), "a valid message is refused");
    }

    #[test]
    fn truncated_messages(fields in vec(valid_field(), 1..6), end in any::<prop::sample::Index>()) {
        let message = fields.concat();
        decodes_like_prost(&message[..end.index(message.len() + 1)]);
    }

    #[test]
    fn changed_bytes(fields in vec(valid_field(), 1..6), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut message = fields.concat();
        for (at, value) in changes {
            let at = at.index(message.len());
            message[at] = value;
        }
        decodes_like_prost(&message);
    }

    #[test]
    fn broken_fields(before in vec(valid_field(), 0..3), broken in broken_field(), after in vec(valid_field(), 0..3)) {
        decodes_like_prost(&[before.concat(), broken, after.concat()].concat());
    }

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..64)) {
        decodes_like_prost(&bytes);
    }

    #[test]
    fn merging_is_decoding_what_is_joined(first in vec(valid_field(), 0..5), second in vec(valid_field(), 0..5)) {
        let (first, second) = (first.concat(), second.concat());
        let mut merged = WeightParams::decode(&first[..]).expect("valid");
        merged.merge(&second[..]).expect("valid");
        let joined = WeightParams::decode(&[first, second].concat()[..]).expect("valid");
        prop_assert_eq!(merged.encode_to_vec(), joined.encode_to_vec());
    }
}

#[test]
fn payloads_share_the_memory_of_the_file() {
    for tag in [FLOAT_VALUE, 2, 30, 31] {
        // Behind an unknown field of one to four bytes, so that the floats lie at every alignment.
        for shift in 0..4 {
            let payload: Vec<u8> = (0..64).collect();
            let file = Bytes::from([delimited(99, &vec![0; shift]), delimited(tag, &payload)].concat());
            let weight = WeightParams::decode(file.clone()).expect("valid");
            let decoded: [&[u8]; 4] =
                [weight.float_value.as_le_bytes(), &weight.float16_value, &weight.raw_value, &weight.int8_raw_value];
            let set: Vec<_> = decoded.into_iter().filter(|payload| !payload.is_empty()).collect();
            assert_eq!(set, [payload], "field {tag}");
            assert!(is_inside(set[0], &file), "field {tag} was copied");
            let clone = weight.clone();
            assert!(is_inside(clone.float_value.as_le_bytes(), &file), "cloning copies");
        }
    }
}

#[test]
fn an_empty_run_beside_the_floats_does_not_copy_them() {
    let floats = float_bytes(&[1, 2, 3]);
    let (run, empty) = (delimited(FLOAT_VALUE, &floats), delimited(FLOAT_VALUE, &[]));
    for file in [[empty.clone(), run.clone()].concat(), [run, empty].concat()] {
        let file = Bytes::from(file);
        let weight = WeightParams::decode(file.clone()).expect("valid");
        assert_eq!(weight.float_value.as_le_bytes(), floats);
        assert!(is_inside(weight.float_value.as_le_bytes(), &file));
    }
}

#[test]
fn float_values_are_made_and_read() {
    let values = [0.0, -0.0, 1.5, f32::MIN_POSITIVE / 2.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    for made in [FloatValues::from(values.to_vec()), values[..].into(), values.into_iter().collect()] {
        assert_eq!(made.as_le_bytes(), bytes);
        assert_eq!((made.len(), made.is_empty()), (values.len(), false));
        assert_eq!(made.iter().map(f32::to_bits).collect::<Vec<_>>(), values.map(f32::to_bits));
        assert_eq!(made.iter().len(), values.len());
    }
    for len in 0..8 {
        let read = FloatValues::from_le_bytes(Bytes::from(bytes[..len].to_vec()));
        assert_eq!(read.map(|read| read.len()), (len % 4 == 0).then_some(len / 4));
    }
    let nan = f32::from_bits(0xffc1_2345);
    assert_eq!(FloatValues::from(vec![nan]).to_vec()[0].to_bits(), nan.to_bits());
}

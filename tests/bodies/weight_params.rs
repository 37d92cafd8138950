//! `WeightParams` is decoded and encoded by hand; this holds it against prost's own code for the same message.
//!
//! A body for property tests and fuzz targets: include it with `#[path]`.

use std::ops::Range;

use bytes::{Buf, Bytes};
use coreml_quant::proto::{QuantizationParams, WeightParams};
use prost::Message;

/// The message as prost would generate it.
#[derive(Clone, PartialEq, Message)]
struct Reference {
    #[prost(float, repeated, tag = "1")]
    float_value: Vec<f32>,
    #[prost(bytes = "bytes", tag = "2")]
    float16_value: Bytes,
    #[prost(bytes = "bytes", tag = "30")]
    raw_value: Bytes,
    #[prost(bytes = "bytes", tag = "31")]
    int8_raw_value: Bytes,
    #[prost(message, optional, tag = "40")]
    quantization: Option<QuantizationParams>,
    #[prost(bool, tag = "50")]
    is_updatable: bool,
}

/// Decodes `data` both ways and compares everything: whether it is accepted, the values, the new encoding. Returns
/// whether it is accepted.
///
/// # Panics
///
/// If the two differ, or if a payload was copied.
pub fn decodes_like_prost(data: &[u8]) -> bool {
    let file = Bytes::copy_from_slice(data);
    let reference = Reference::decode(file.clone());
    let weight = WeightParams::decode(file.clone());
    let (reference, weight) = match (reference, weight) {
        (Ok(reference), Ok(weight)) => (reference, weight),
        (Err(_), Err(_)) => return false,
        (reference, weight) => panic!("prost: {reference:?}\nours: {weight:?}"),
    };
    assert_eq!(bits(&weight.float_value.to_vec()), bits(&reference.float_value));
    assert_eq!(weight.float_value.len(), reference.float_value.len());
    assert_eq!(weight.float16_value, reference.float16_value);
    assert_eq!(weight.raw_value, reference.raw_value);
    assert_eq!(weight.int8_raw_value, reference.int8_raw_value);
    assert_eq!(encoding(&weight.quantization), encoding(&reference.quantization));
    assert_eq!(weight.is_updatable, reference.is_updatable);

    let encoded = weight.encode_to_vec();
    assert_eq!(encoded, reference.encode_to_vec());
    assert_eq!(weight.encoded_len(), encoded.len());
    assert_eq!(WeightParams::decode(&encoded[..]).map(|again| again.encode_to_vec()), Ok(encoded.clone()));

    for payload in [&weight.float16_value, &weight.raw_value, &weight.int8_raw_value] {
        assert!(is_inside(payload, &file), "the payload was copied");
    }

    // However the bytes arrive, the weight is the same.
    for middle in [1, data.len() / 2, data.len().saturating_sub(1)] {
        let (front, back) = data.split_at(middle.min(data.len()));
        let pieces = WeightParams::decode(front.chain(back)).expect("the same bytes in two pieces");
        assert_eq!(pieces.encode_to_vec(), encoded);
    }
    true
}

/// Whether `part` lies in the memory of `whole`.
pub fn is_inside(part: &[u8], whole: &[u8]) -> bool {
    let (Range { start, end }, outer) = (part.as_ptr_range(), whole.as_ptr_range());
    part.is_empty() || (outer.start <= start && end <= outer.end)
}

/// NaNs compare by their bits.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn encoding(quantization: &Option<QuantizationParams>) -> Option<Vec<u8>> {
    quantization.as_ref().map(Message::encode_to_vec)
}

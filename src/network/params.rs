//! Payloads as Core ML's neural networks store them: `WeightParams` to and fro.

use prost::Message;

use super::shape::Shape;
use crate::error::WeightError;
use crate::format::form::{Nbits, StoredForm};
use crate::format::proto::quantization_params::QuantizationType;
use crate::format::proto::{LinearQuantizationParams, LookUpTableQuantizationParams, QuantizationParams, WeightParams};
use crate::format::weight_params::FloatValues;
use crate::weight::{Buffers, Payload, WeightSpec, WeightView, stored_codes};

/// The payload of a weight of a shape, everything about it checked: lengths, bits, the counts of scales and biases, the
/// table. Whether the layer may have its form is another question.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn payload<'a>(params: &'a WeightParams, shape: &Shape) -> Result<Payload<&'a [u8]>, WeightError> {
    let fields = [
        ("floatValue", params.float_value.as_le_bytes()),
        ("float16Value", &params.float16_value),
        ("rawValue", &params.raw_value),
        ("int8RawValue", &params.int8_raw_value),
    ];
    let mut set = fields.into_iter().filter(|(_, bytes)| !bytes.is_empty());
    let Some((field, bytes)) = set.next() else {
        return Err(WeightError::Missing { expected: shape.units });
    };
    if let Some((second, _)) = set.next() {
        let forms = [field, second].into_iter().chain(set.map(|(field, _)| field)).collect();
        return Err(WeightError::SeveralForms { forms });
    }
    let payload = match field {
        "floatValue" => Payload::Float32(bytes),
        "float16Value" => Payload::Float16(bytes),
        "rawValue" => codes(bytes, quantization(params, field)?, field, shape.units)?,
        _ => int8(bytes, quantization(params, field)?, field, shape.units)?,
    };
    payload.check(shape.units, shape.channel_count())?;
    Ok(payload)
}

/// The form of a weight that is stored as its layer needs it.
///
/// # Errors
///
/// As [`payload`].
pub(crate) fn form(params: &WeightParams, shape: &Shape) -> Result<StoredForm, WeightError> {
    Ok(payload(params, shape)?.form())
}

/// The values of a weight, and what is known of it.
///
/// # Errors
///
/// As [`payload`].
pub(crate) fn view<'a>(
    params: &'a WeightParams,
    shape: &Shape,
    spec: WeightSpec<'a>,
    buffers: &mut Buffers,
) -> Result<WeightView<'a>, WeightError> {
    Ok(match payload(params, shape)? {
        Payload::Float32(bytes) => WeightView::shared(bytes, spec),
        payload => WeightView::decoded(payload.decode(shape.stored_blocks(), buffers), spec),
    })
}

fn quantization<'a>(params: &'a WeightParams, field: &'static str) -> Result<&'a QuantizationParams, WeightError> {
    params.quantization.as_ref().ok_or(WeightError::NoQuantization { field, missing: "quantization" })
}

fn codes<'a>(
    packed: &'a [u8],
    quantization: &QuantizationParams,
    field: &'static str,
    units: usize,
) -> Result<Payload<&'a [u8]>, WeightError> {
    let found = quantization.number_of_bits;
    let nbits = u32::try_from(found).ok().and_then(Nbits::new);
    let nbits = nbits.ok_or(WeightError::Bits { found, expected: "1 to 8" })?;
    let codes = stored_codes(packed, units, nbits)?;
    match &quantization.quantization_type {
        Some(QuantizationType::LinearQuantization(LinearQuantizationParams { scale, bias })) => {
            Ok(Payload::Linear { codes, scale: scale.clone(), bias: bias.clone() })
        }
        Some(QuantizationType::LookupTableQuantization(table)) => {
            Ok(Payload::LookupTable { codes, table: table.float_value.clone() })
        }
        None => Err(WeightError::NoQuantization { field, missing: "linearQuantization or lookupTableQuantization" }),
    }
}

fn int8<'a>(
    values: &'a [u8],
    quantization: &QuantizationParams,
    field: &'static str,
    units: usize,
) -> Result<Payload<&'a [u8]>, WeightError> {
    if quantization.number_of_bits != 8 {
        return Err(WeightError::Bits { found: quantization.number_of_bits, expected: "8" });
    }
    if values.len() != units {
        return Err(WeightError::Length { field, unit: "bytes", found: values.len(), expected: units });
    }
    let Some(QuantizationType::LinearQuantization(linear)) = &quantization.quantization_type else {
        return Err(WeightError::NoQuantization { field, missing: "linearQuantization" });
    };
    let &[scale] = &linear.scale[..] else {
        return Err(WeightError::ScaleCount { field: "scale", found: linear.scale.len(), expected: vec![1] });
    };
    if !linear.bias.is_empty() {
        return Err(WeightError::ScaleCount { field: "bias", found: linear.bias.len(), expected: vec![0] });
    }
    Ok(Payload::Int8 { values, scale })
}

/// A payload as Core ML stores it.
pub(crate) fn to_params(payload: Payload, is_updatable: bool) -> WeightParams {
    let empty = WeightParams { is_updatable, ..WeightParams::default() };
    match payload {
        Payload::Float32(bytes) => {
            WeightParams { float_value: FloatValues::from_le_bytes(bytes.into()).unwrap_or_default(), ..empty }
        }
        Payload::Float16(bytes) => WeightParams { float16_value: bytes.into(), ..empty },
        Payload::Linear { codes, scale, bias } => {
            let quantization = Some(linear(codes.nbits(), scale, bias));
            WeightParams { raw_value: codes.into_packed().into(), quantization, ..empty }
        }
        Payload::LookupTable { codes, table } => {
            let quantization = Some(lookup_table(codes.nbits(), table));
            WeightParams { raw_value: codes.into_packed().into(), quantization, ..empty }
        }
        Payload::Int8 { values, scale } => {
            let quantization = Some(linear(Nbits::EIGHT, vec![scale], Vec::new()));
            WeightParams { int8_raw_value: values.into(), quantization, ..empty }
        }
    }
}

fn linear(nbits: Nbits, scale: Vec<f32>, bias: Vec<f32>) -> QuantizationParams {
    codes_of(nbits, QuantizationType::LinearQuantization(LinearQuantizationParams { scale, bias }))
}

fn lookup_table(nbits: Nbits, float_value: Vec<f32>) -> QuantizationParams {
    codes_of(nbits, QuantizationType::LookupTableQuantization(LookUpTableQuantizationParams { float_value }))
}

fn codes_of(nbits: Nbits, kind: QuantizationType) -> QuantizationParams {
    QuantizationParams { number_of_bits: nbits.get().into(), quantization_type: Some(kind) }
}

/// Encoded length of a weight of `units` values in a form, before there is one.
pub(crate) fn encoded_len(form: StoredForm, units: usize, is_updatable: bool) -> usize {
    // The length does not depend on the values, so zeros will do.
    let quantization = match form {
        StoredForm::Float32 | StoredForm::Float16 | StoredForm::Program(_) => None,
        StoredForm::Linear { nbits, scales, biases } => Some(linear(nbits, vec![0.0; scales], vec![0.0; biases])),
        StoredForm::Int8 => Some(linear(Nbits::EIGHT, vec![0.0], Vec::new())),
        StoredForm::LookupTable { nbits } => Some(lookup_table(nbits, vec![0.0; nbits.levels()])),
    };
    let around = WeightParams { quantization, is_updatable, ..WeightParams::default() };
    around.encoded_len() + WeightParams::encoded_payload_len(form, units)
}

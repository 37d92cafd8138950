//! [`WeightParams`], the message that stores one weight, decoded without copying its payload.
//!
//! prost would decode `repeated float` into a `Vec<f32>`: a second copy of the whole model in memory, at a third of the
//! speed of reading the file. A packed run of floats is a length and little-endian bytes, so this message is written by
//! hand and keeps the run as [`Bytes`] that share the file's buffer. On the wire it is exactly the message of
//! `proto/NeuralNetwork.proto`; a property test holds it against prost's own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use crate::format::form::StoredForm;
use crate::format::proto::QuantizationParams;

/// The field numbers of `WeightParams`.
mod tag {
    pub(super) const FLOAT_VALUE: u32 = 1;
    pub(super) const FLOAT16_VALUE: u32 = 2;
    pub(super) const RAW_VALUE: u32 = 30;
    pub(super) const INT8_RAW_VALUE: u32 = 31;
    pub(super) const QUANTIZATION: u32 = 40;
    pub(super) const IS_UPDATABLE: u32 = 50;
}

/// One weight of a layer, in one of the four forms that Core ML knows.
///
/// At most one of the four payloads is set in a valid model. Cloning shares the payload.
///
/// ```
/// use coreml_quant::proto::WeightParams;
///
/// let weight = WeightParams::from_floats(&[1.0, -2.5]);
/// assert_eq!(weight.float_value.len(), 2);
/// assert_eq!(weight.float_value.to_vec(), [1.0, -2.5]);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightParams {
    /// float32 values, one per weight.
    pub float_value: FloatValues,
    /// IEEE half-precision values, little-endian, two bytes per weight.
    pub float16_value: Bytes,
    /// Unsigned codes of `quantization.number_of_bits` bits, packed most significant bit first, padded with zero bits
    /// to a whole byte.
    pub raw_value: Bytes,
    /// Signed 8-bit values, one byte per weight, for layers with `int8_dynamic_quantize`.
    pub int8_raw_value: Bytes,
    /// How `raw_value` or `int8_raw_value` decodes to floats.
    pub quantization: Option<QuantizationParams>,
    /// Whether on-device training may change this weight.
    pub is_updatable: bool,
}

/// A message whose bytes are written later: its encoded length is known, its content is not computed yet.
///
/// Encoding a hole writes nothing; it notes where in the buffer its bytes belong.
#[derive(Debug)]
pub(crate) struct Hole {
    len: AtomicUsize,
    /// What `remaining_mut` of the buffer was when the hole was passed.
    remaining: AtomicUsize,
}

impl Hole {
    /// Room for a message of `len` encoded bytes.
    pub(crate) fn new(len: usize) -> Self {
        Self { len: AtomicUsize::new(len), remaining: AtomicUsize::new(0) }
    }

    /// The encoded length of the message that belongs here, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Room for a message of another length: to learn what that does to the messages around it.
    pub(crate) fn set_len(&self, len: usize) {
        self.len.store(len, Ordering::Relaxed);
    }

    /// Where the message belongs: the offset in a buffer that had room for `capacity` bytes when encoding started.
    /// Other holes before this one are not counted.
    pub(crate) fn offset(&self, capacity: usize) -> usize {
        capacity - self.remaining.load(Ordering::Relaxed)
    }
}

impl WeightParams {
    /// A float32 weight.
    pub fn from_floats(values: &[f32]) -> Self {
        Self { float_value: values.into(), ..Self::default() }
    }

    /// A placeholder for a message that is written later.
    pub(crate) fn hole(hole: &Arc<Hole>) -> Self {
        Self { float_value: FloatValues(Storage::Hole(Arc::clone(hole))), ..Self::default() }
    }

    /// The placeholder, if this is one.
    fn as_hole(&self) -> Option<&Hole> {
        match &self.float_value.0 {
            Storage::Hole(hole) => Some(hole),
            Storage::Shared(_) | Storage::Owned(_) => None,
        }
    }

    /// Whether no form of the weight is stored.
    pub fn is_empty(&self) -> bool {
        self.float_value.is_empty()
            && self.float16_value.is_empty()
            && self.raw_value.is_empty()
            && self.int8_raw_value.is_empty()
    }
}

impl Message for WeightParams {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if let Some(hole) = self.as_hole() {
            hole.remaining.store(buf.remaining_mut(), Ordering::Relaxed);
            return;
        }
        for (tag, payload) in self.payloads() {
            if !payload.is_empty() {
                encoding::encode_key(tag, WireType::LengthDelimited, buf);
                encoding::encode_varint(payload.len() as u64, buf);
                buf.put_slice(payload);
            }
        }
        self.encode_tail(buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        let merged = match tag {
            tag::FLOAT_VALUE => self.float_value.merge(wire_type, buf, ctx),
            tag::FLOAT16_VALUE => encoding::bytes::merge(wire_type, &mut self.float16_value, buf, ctx),
            tag::RAW_VALUE => encoding::bytes::merge(wire_type, &mut self.raw_value, buf, ctx),
            tag::INT8_RAW_VALUE => encoding::bytes::merge(wire_type, &mut self.int8_raw_value, buf, ctx),
            tag::QUANTIZATION => encoding::message::merge(
                wire_type,
                self.quantization.get_or_insert_with(QuantizationParams::default),
                buf,
                ctx,
            ),
            tag::IS_UPDATABLE => encoding::bool::merge(wire_type, &mut self.is_updatable, buf, ctx),
            _ => return encoding::skip_field(wire_type, tag, buf, ctx),
        };
        merged.map_err(|mut error| {
            error.push("WeightParams", Self::field_name(tag));
            error
        })
    }

    fn encoded_len(&self) -> usize {
        if let Some(hole) = self.as_hole() {
            return hole.len();
        }
        let payloads: usize = self.payloads().iter().map(|(tag, payload)| Self::payload_len(*tag, payload.len())).sum();
        payloads + self.tail_len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl WeightParams {
    fn payloads(&self) -> [(u32, &[u8]); 4] {
        [
            (tag::FLOAT_VALUE, self.float_value.as_le_bytes()),
            (tag::FLOAT16_VALUE, &self.float16_value),
            (tag::RAW_VALUE, &self.raw_value),
            (tag::INT8_RAW_VALUE, &self.int8_raw_value),
        ]
    }

    fn field_name(tag: u32) -> &'static str {
        match tag {
            tag::FLOAT_VALUE => "float_value",
            tag::FLOAT16_VALUE => "float16_value",
            tag::RAW_VALUE => "raw_value",
            tag::INT8_RAW_VALUE => "int8_raw_value",
            tag::QUANTIZATION => "quantization",
            _ => "is_updatable",
        }
    }

    /// Encoded length of a payload field of `len` bytes; an empty one takes no space.
    fn payload_len(tag: u32, len: usize) -> usize {
        if len == 0 { 0 } else { encoding::key_len(tag) + encoding::encoded_len_varint(len as u64) + len }
    }

    fn tail_len(&self) -> usize {
        let quantization =
            self.quantization.as_ref().map_or(0, |params| encoding::message::encoded_len(tag::QUANTIZATION, params));
        let updatable =
            if self.is_updatable { encoding::bool::encoded_len(tag::IS_UPDATABLE, &self.is_updatable) } else { 0 };
        quantization + updatable
    }

    /// Encodes what follows the payload.
    fn encode_tail(&self, buf: &mut impl BufMut) {
        if let Some(params) = &self.quantization {
            encoding::message::encode(tag::QUANTIZATION, params, buf);
        }
        if self.is_updatable {
            encoding::bool::encode(tag::IS_UPDATABLE, &self.is_updatable, buf);
        }
    }

    /// Encoded length of the payload of `units` values in a form.
    pub(crate) fn encoded_payload_len(form: StoredForm, units: usize) -> usize {
        match form {
            StoredForm::Float32 => Self::payload_len(tag::FLOAT_VALUE, units * FLOAT_BYTES),
            StoredForm::Float16 => Self::payload_len(tag::FLOAT16_VALUE, units * 2),
            StoredForm::Linear { nbits, .. } | StoredForm::LookupTable { nbits } => {
                Self::payload_len(tag::RAW_VALUE, nbits.packed_len(units))
            }
            StoredForm::Int8 => Self::payload_len(tag::INT8_RAW_VALUE, units),
            // Weights of networks have none of these.
            StoredForm::Program(_) => 0,
        }
    }

    /// The encoded message in pieces, so that a large payload is written from where it lies: the head (key and
    /// length), the payload, the tail. `None` when several payloads are set, which no valid model has.
    pub(crate) fn encode_around_payload(&self) -> Option<(Vec<u8>, &[u8], Vec<u8>)> {
        let mut set = self.payloads().into_iter().filter(|(_, payload)| !payload.is_empty());
        let (tag, payload) = set.next()?;
        if set.next().is_some() {
            return None;
        }
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        encoding::encode_key(tag, WireType::LengthDelimited, &mut head);
        encoding::encode_varint(payload.len() as u64, &mut head);
        self.encode_tail(&mut tail);
        Some((head, payload, tail))
    }
}

/// float32 values as little-endian bytes, shared with the file they were decoded from.
///
/// The bytes may lie at any alignment, so values are read one by one ([`iter`](Self::iter)) or into a vector
/// ([`to_vec`](Self::to_vec)).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FloatValues(Storage);

/// A run that is still being appended to is owned; everything else is shared.
#[derive(Clone)]
enum Storage {
    Shared(Bytes),
    Owned(Vec<u8>),
    /// Only while a model is written: no values, but a place that is kept free for the whole message.
    Hole(Arc<Hole>),
}

impl Default for Storage {
    fn default() -> Self {
        Self::Shared(Bytes::new())
    }
}

impl PartialEq for Storage {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Storage {}

impl Storage {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Hole(_) => &[],
        }
    }

    /// Appends bytes. A shared run is copied at most once, however many pieces follow.
    fn append(&mut self, more: &[u8]) {
        match self {
            Self::Shared(bytes) => {
                let mut owned = Vec::with_capacity(bytes.len() + more.len());
                owned.extend_from_slice(bytes);
                owned.extend_from_slice(more);
                *self = Self::Owned(owned);
            }
            Self::Owned(bytes) => bytes.extend_from_slice(more),
            Self::Hole(_) => *self = Self::Owned(more.to_vec()),
        }
    }
}

/// Bytes of one float32.
const FLOAT_BYTES: usize = size_of::<f32>();

impl FloatValues {
    /// Values from their little-endian bytes; `None` if the length is not a multiple of four.
    pub fn from_le_bytes(bytes: Bytes) -> Option<Self> {
        bytes.len().is_multiple_of(FLOAT_BYTES).then_some(Self(Storage::Shared(bytes)))
    }

    /// The little-endian bytes of the values, four each.
    pub fn as_le_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The little-endian bytes, shared or the values' own.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self.0 {
            Storage::Shared(bytes) => bytes,
            Storage::Owned(bytes) => bytes.into(),
            Storage::Hole(_) => Bytes::new(),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.as_le_bytes().len() / FLOAT_BYTES
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.as_le_bytes().is_empty()
    }

    /// The values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = f32> + Clone + '_ {
        floats(self.as_le_bytes())
    }

    /// The values in a vector of their own.
    pub fn to_vec(&self) -> Vec<f32> {
        self.iter().collect()
    }

    /// Appends the values of one field occurrence: a packed run, or a single value.
    fn merge(&mut self, wire_type: WireType, buf: &mut impl Buf, ctx: DecodeContext) -> Result<(), DecodeError> {
        if wire_type == WireType::LengthDelimited {
            let mut run = Bytes::new();
            encoding::bytes::merge(wire_type, &mut run, buf, ctx)?;
            if !run.len().is_multiple_of(FLOAT_BYTES) {
                #[expect(deprecated, reason = "prost offers no other way to make a decode error")]
                return Err(DecodeError::new("packed floats end within a value"));
            }
            if self.is_empty() {
                self.0 = Storage::Shared(run);
            } else if !run.is_empty() {
                self.0.append(&run);
            }
        } else {
            let mut value = 0.0;
            encoding::float::merge(wire_type, &mut value, buf, ctx)?;
            self.0.append(&value.to_le_bytes());
        }
        Ok(())
    }
}

/// The float32 values of little-endian bytes.
pub(crate) fn floats(bytes: &[u8]) -> impl ExactSizeIterator<Item = f32> + Clone + '_ {
    bytes.as_chunks::<FLOAT_BYTES>().0.iter().map(|chunk| f32::from_le_bytes(*chunk))
}

impl fmt::Debug for FloatValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl From<Vec<f32>> for FloatValues {
    fn from(values: Vec<f32>) -> Self {
        values.as_slice().into()
    }
}

impl From<&[f32]> for FloatValues {
    fn from(values: &[f32]) -> Self {
        values.iter().copied().collect()
    }
}

impl FromIterator<f32> for FloatValues {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Self {
        let values = values.into_iter();
        let mut bytes = Vec::with_capacity(values.size_hint().0.saturating_mul(FLOAT_BYTES));
        for value in values {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        Self(Storage::Shared(bytes.into()))
    }
}

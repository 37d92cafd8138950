//! Memory that is used again from weight to weight: fresh pages cost more than the quantizing.

use crate::format::proto::WeightParams;

/// Memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    free: Vec<Vec<u8>>,
}

impl Buffers {
    /// A buffer of `len` bytes with arbitrary content.
    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        let mut buffer = self.free.pop().unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    /// Takes memory back.
    pub(crate) fn give_back(&mut self, buffer: Vec<u8>) {
        self.free.push(buffer);
    }

    /// Takes the memory of a weight back that nobody shares.
    pub(crate) fn recycle(&mut self, params: WeightParams) {
        let WeightParams { float_value, float16_value, raw_value, int8_raw_value, .. } = params;
        for payload in [float16_value, raw_value, int8_raw_value, float_value.into_bytes()] {
            if !payload.is_empty() && payload.is_unique() {
                self.give_back(payload.into());
            }
        }
    }
}

//! Packed codes.

use crate::error::QuantizeError;
use crate::format::form::Nbits;
use crate::kernels::pack;

/// Codes of 1 to 8 bits, packed as Core ML reads them: most significant bit first, without gaps, the last byte padded
/// with zero bits. `B` is bytes that were made, or a slice of them where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes<B = Vec<u8>> {
    packed: B,
    len: usize,
    nbits: Nbits,
}

impl Codes {
    /// Packs codes.
    ///
    /// ```
    /// use coreml_quant::{Codes, Nbits};
    ///
    /// let codes = Codes::pack(&[1, 2, 3], Nbits::new(4).ok_or("bits")?)?;
    /// assert_eq!(codes.as_packed(), [0x12, 0x30]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`QuantizeError::CodeRange`] for a code that needs more bits.
    pub fn pack(codes: &[u8], nbits: Nbits) -> Result<Self, QuantizeError> {
        if let Some(index) = codes.iter().position(|&code| usize::from(code) >= nbits.levels()) {
            return Err(QuantizeError::CodeRange { index, code: codes[index], nbits: nbits.get() });
        }
        let mut packed = vec![0; nbits.packed_len(codes.len())];
        pack::pack(codes, nbits.get(), &mut packed);
        Ok(Self { packed, len: codes.len(), nbits })
    }

    pub(crate) fn into_packed(self) -> Vec<u8> {
        self.packed
    }
}

impl<B: AsRef<[u8]>> Codes<B> {
    /// `len` codes that are packed already, in as many bytes as they take.
    pub(crate) fn from_packed(packed: B, len: usize, nbits: Nbits) -> Self {
        debug_assert_eq!(packed.as_ref().len(), nbits.packed_len(len));
        Self { packed, len, nbits }
    }

    /// The packed bytes.
    pub fn as_packed(&self) -> &[u8] {
        self.packed.as_ref()
    }

    /// The codes, one a byte.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut codes = vec![0; self.len];
        pack::unpack(self.as_packed(), self.nbits.get(), &mut codes);
        codes
    }

    /// Number of codes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no codes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bits of a code.
    pub fn nbits(&self) -> Nbits {
        self.nbits
    }
}

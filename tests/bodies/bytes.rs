//! Arbitrary bytes as a source of decisions.

/// Reads bytes one after the other; zeros follow the end.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// The next `len` bytes, or as many as there are.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A size: mostly small, sometimes near the limits of the integers where shapes overflow.
    pub fn size(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=199 => u64::from(small % 9),
            200..=229 => u64::from(self.byte()),
            230..=239 => 1 << (self.byte() % 64),
            240..=247 => u64::MAX - u64::from(self.byte()),
            _ => i64::MAX as u64 - u64::from(self.byte()),
        }
    }
}

//! The values that codes can stand for: evenly spaced ones for each row, or a table for all.

/// The grid of a weight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Grid {
    /// `code * scale + bias`, a scale and bias for each row.
    Linear {
        /// The distance of neighbouring values.
        scale: Vec<f32>,
        /// The value of code 0.
        bias: Vec<f32>,
    },
    /// `table[code]`, 2^n ascending values.
    Table(Vec<f32>),
}

impl Grid {
    /// The levels of a row.
    pub(super) fn levels(&self, row: usize, nbits: u8) -> RowLevels<'_> {
        match self {
            Self::Linear { scale, bias } => {
                let (scale, bias) =
                    (scale.get(row).copied().unwrap_or_default(), bias.get(row).copied().unwrap_or_default());
                RowLevels::even(scale, bias, nbits)
            }
            Self::Table(table) => RowLevels::Listed(Listed { table }),
        }
    }
}

/// The values of a row's codes.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowLevels<'a> {
    Even(Even),
    Listed(Listed<'a>),
}

impl RowLevels<'_> {
    /// Evenly spaced ones.
    pub(super) fn even(scale: f32, bias: f32, nbits: u8) -> Self {
        Self::Even(Even::new(scale, bias, nbits))
    }

    /// The value of a code.
    #[inline(always)]
    pub(super) fn value(&self, code: u8) -> f32 {
        match self {
            Self::Even(levels) => levels.value(code),
            Self::Listed(levels) => levels.value(code),
        }
    }
}

/// How the nearest level of a value is found. Ties go to the even code of even levels, to the lower of listed ones.
pub(super) trait Levels: Copy {
    /// The code of the nearest level, and its value.
    fn nearest(&self, value: f32) -> (u8, f32);
    /// The value of a code.
    fn value(&self, code: u8) -> f32;
}

/// Evenly spaced levels. Scale 0 has one level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Even {
    scale: f32,
    bias: f32,
    inverse: f32,
    top: f32,
}

impl Even {
    pub(super) fn new(scale: f32, bias: f32, nbits: u8) -> Self {
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        Self { scale, bias, inverse: if inverse.is_finite() { inverse } else { 0.0 }, top: top_code(nbits) as f32 }
    }
}

/// The largest code of n bits.
pub(super) fn top_code(nbits: u8) -> u32 {
    (1 << nbits) - 1
}

impl Levels for Even {
    #[inline(always)]
    fn nearest(&self, value: f32) -> (u8, f32) {
        let code = ((value - self.bias) * self.inverse).round_ties_even().clamp(0.0, self.top) as u8;
        (code, self.value(code))
    }

    #[inline(always)]
    fn value(&self, code: u8) -> f32 {
        f32::from(code) * self.scale + self.bias
    }
}

/// Levels in an ascending table whose length is a power of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed<'a> {
    pub(super) table: &'a [f32],
}

impl Levels for Listed<'_> {
    #[inline(always)]
    fn nearest(&self, value: f32) -> (u8, f32) {
        // The number of borders below the value, halving.
        let mut first = 0;
        let mut step = self.table.len() / 2;
        while step > 0 {
            let next = first + step;
            let above = value > 0.5 * (self.table[next - 1] + self.table[next]);
            first = if above { next } else { first };
            step /= 2;
        }
        (first as u8, self.table[first])
    }

    #[inline(always)]
    fn value(&self, code: u8) -> f32 {
        self.table[usize::from(code)]
    }
}

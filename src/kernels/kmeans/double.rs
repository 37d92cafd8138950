//! Double-double arithmetic: a number as the unevaluated sum of two float64, about 106 bits.
//!
//! The cost of a cluster is a difference of sums of squares. When a tensor mixes very different magnitudes, nearly all
//! digits of a float64 sum cancel in it; twice the digits suffice for any float32 input (see [`super::cost`]).
//!
//! The building blocks are Knuth's exact sum (The Art of Computer Programming, vol. 2, 4.2.2) and Dekker's exact
//! product ("A floating-point technique for extending the available precision", 1971), which needs no fused
//! multiply-add and so gives the same bits everywhere. Squares of float32 values, even summed 2^60 times, stay below
//! 2^320: nothing here overflows for the input it is meant for.

use std::ops::{Add, Sub};

/// `high + low`, where `high` is the sum rounded to float64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Double {
    pub(super) high: f64,
    pub(super) low: f64,
}

impl Double {
    /// Exactly `a + b`.
    #[inline(always)]
    pub(super) fn sum(a: f64, b: f64) -> Self {
        let high = a + b;
        let b_part = high - a;
        Self { high, low: (a - (high - b_part)) + (b - b_part) }
    }

    /// Exactly `a * b`, short of underflow.
    #[inline(always)]
    pub(super) fn product(a: f64, b: f64) -> Self {
        let high = a * b;
        let ((a1, a0), (b1, b0)) = (halves(a), halves(b));
        Self { high, low: ((a1 * b1 - high) + a1 * b0 + a0 * b1) + a0 * b0 }
    }

    /// `self * factor`.
    #[inline(always)]
    pub(super) fn scaled(self, factor: f64) -> Self {
        let product = Self::product(self.high, factor);
        Self::ordered_sum(product.high, product.low + self.low * factor)
    }

    /// The nearest float64.
    #[inline(always)]
    pub(super) fn to_f64(self) -> f64 {
        self.high + self.low
    }

    /// Exactly `a + b` for `|a| >= |b|`.
    #[inline(always)]
    fn ordered_sum(a: f64, b: f64) -> Self {
        let high = a + b;
        Self { high, low: b - (high - a) }
    }
}

/// Two halves of 26 bits each (Veltkamp's splitting).
#[inline(always)]
fn halves(x: f64) -> (f64, f64) {
    const SPLITTER: f64 = 134_217_729.0; // 2^27 + 1
    let t = SPLITTER * x;
    let high = t - (t - x);
    (high, x - high)
}

impl Add for Double {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let high = Self::sum(self.high, other.high);
        let low = Self::sum(self.low, other.low);
        let sum = Self::ordered_sum(high.high, high.low + low.high);
        Self::ordered_sum(sum.high, sum.low + low.low)
    }
}

impl Sub for Double {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self + Self { high: -other.high, low: -other.low }
    }
}

/// A sum that rounds about once however many terms it has (Neumaier's compensated summation, 1974).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunningSum {
    sum: f64,
    lost: f64,
}

impl RunningSum {
    #[inline(always)]
    pub(super) fn add(&mut self, term: f64) {
        let exact = Double::sum(self.sum, term);
        self.sum = exact.high;
        self.lost += exact.low;
    }

    #[inline(always)]
    pub(super) fn total(self) -> f64 {
        self.sum + self.lost
    }
}

/// A cube root to six digits, the same on every machine, unlike the standard library's. Of positive, normal numbers.
#[inline(always)]
pub(super) fn cube_root(x: f64) -> f64 {
    // Dividing the bits by 3 divides the exponent, and the mantissa nearly as it should be. Then one step of Halley's.
    let y = f64::from_bits(x.to_bits() / 3 + 0x2A9F_7893_0000_0000);
    let cube = y * y * y;
    y * (cube + 2.0 * x) / (2.0 * cube + x)
}

#[cfg(test)]
mod tests {
    use super::{Double, cube_root};

    #[test]
    fn keeps_what_float64_loses() {
        // (2^53 + 1)^2 - 2^106 = 2^54 + 1
        let n = Double::sum(9_007_199_254_740_992.0, 1.0);
        assert_eq!((n.high, n.low), (9_007_199_254_740_992.0, 1.0));
        let square = n.scaled(9_007_199_254_740_992.0) + n;
        let rest = square - Double::product(9_007_199_254_740_992.0, 9_007_199_254_740_992.0);
        assert_eq!((rest - Double::product(2.0, 9_007_199_254_740_992.0)).to_f64(), 1.0);
        let (a, b) = (1.0 + f64::EPSILON, 1.0 - f64::EPSILON);
        assert_eq!(Double::product(a, b).low, -f64::EPSILON * f64::EPSILON);
    }

    #[test]
    fn cube_roots() {
        for at in -400..400 {
            let x = 1.07_f64.powi(at);
            assert!((cube_root(x) / x.cbrt() - 1.0).abs() < 1e-4, "{x}: {} {}", cube_root(x), x.cbrt());
        }
    }
}

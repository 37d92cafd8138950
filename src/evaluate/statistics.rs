//! Sums over pairs of values, in float64 and in the order of the values.

use std::fmt;

use crate::weight::distortion::decibels;

/// How far values are from those they stand for. Pairs of which one is not finite are counted and left out of all else.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Difference {
    /// The signal-to-noise ratio in decibels, `10 log10(sum y^2 / sum (y' - y)^2)`; infinite without a difference.
    pub snr_db: f64,
    /// The peak signal-to-noise ratio in decibels, `10 log10(max y^2 / mean (y' - y)^2)`.
    pub psnr_db: f64,
    /// The cosine of the angle between `y` and `y'`; 1 if both are zero.
    pub cosine: f64,
    /// The largest difference.
    pub max_abs: f64,
    /// The mean of the differences' magnitudes.
    pub mean_abs: f64,
    /// The largest magnitude of `y`.
    pub peak: f64,
    /// How many pairs of values there are.
    pub values: u64,
    /// Pairs of which at least one value is infinite or no number, and which are not the same.
    pub non_finite: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { snr_db, psnr_db, cosine, max_abs, mean_abs, non_finite, .. } = self;
        write!(
            f,
            "SNR {}, PSNR {}, cosine {cosine:.6}, largest difference {max_abs:.3e}, mean {mean_abs:.3e}",
            Decibels(*snr_db),
            Decibels(*psnr_db)
        )?;
        if *non_finite > 0 {
            write!(f, ", {non_finite} values not finite")?;
        }
        Ok(())
    }
}

/// Decibels as text.
pub(super) struct Decibels(pub(super) f64);

impl fmt::Display for Decibels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == f64::INFINITY { f.pad("exact") } else { f.pad(&format!("{:.1} dB", self.0)) }
    }
}

/// A share of samples, with the interval that holds the true share with a probability of 95 % (Wilson's score interval).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Proportion {
    /// How many.
    pub count: u64,
    /// Of how many, at least 1.
    pub of: u64,
    /// `count / of`.
    pub share: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

/// The normal distribution's quantile of 97.5 %.
const Z: f64 = 1.959_963_984_540_054;

impl Proportion {
    /// `None` of no samples.
    pub(super) fn new(count: u64, of: u64) -> Option<Self> {
        if of == 0 {
            return None;
        }
        let n = of as f64;
        let share = count as f64 / n;
        let denominator = 1.0 + Z * Z / n;
        let center = (share + Z * Z / (2.0 * n)) / denominator;
        let half = Z / denominator * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        Some(Self { count, of, share, low: (center - half).max(0.0), high: (center + half).min(1.0) })
    }
}

impl fmt::Display for Proportion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, of, share, low, high } = self;
        write!(f, "{count} of {of}, {:.1} % ({:.1} to {:.1} %)", 100.0 * share, 100.0 * low, 100.0 * high)
    }
}

/// What a [`Difference`] is made of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    values: u64,
    non_finite: u64,
    signal: f64,
    found: f64,
    noise: f64,
    product: f64,
    magnitudes: f64,
    largest: f64,
    peak: f64,
}

impl Sums {
    /// Of one array and another of as many values.
    pub(super) fn of(
        original: impl IntoIterator<Item = impl Into<f64>>,
        found: impl IntoIterator<Item = impl Into<f64>>,
    ) -> Self {
        let mut sums = Self::default();
        for (original, found) in original.into_iter().zip(found) {
            let (original, found): (f64, f64) = (original.into(), found.into());
            sums.values += 1;
            if !(original.is_finite() && found.is_finite()) {
                sums.non_finite += u64::from(original != found && !(original.is_nan() && found.is_nan()));
                continue;
            }
            let difference = (found - original).abs();
            sums.signal += original * original;
            sums.found += found * found;
            sums.noise += difference * difference;
            sums.product += original * found;
            sums.magnitudes += difference;
            sums.largest = sums.largest.max(difference);
            sums.peak = sums.peak.max(original.abs());
        }
        sums
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.values += other.values;
        self.non_finite += other.non_finite;
        self.signal += other.signal;
        self.found += other.found;
        self.noise += other.noise;
        self.product += other.product;
        self.magnitudes += other.magnitudes;
        self.largest = self.largest.max(other.largest);
        self.peak = self.peak.max(other.peak);
    }

    /// Noise over signal; infinite if a value is not finite any more.
    pub(super) fn relative(&self) -> f64 {
        if self.non_finite > 0 {
            f64::INFINITY
        } else if self.noise == 0.0 {
            0.0
        } else {
            self.noise / self.signal
        }
    }

    pub(super) fn difference(&self) -> Difference {
        let mean = |sum: f64| sum / self.values.max(1) as f64;
        let norms = (self.signal * self.found).sqrt();
        let both_zero = self.signal == 0.0 && self.found == 0.0;
        Difference {
            snr_db: decibels(self.relative()),
            psnr_db: if self.noise == 0.0 {
                decibels(self.relative())
            } else {
                decibels(mean(self.noise) / (self.peak * self.peak))
            },
            cosine: if both_zero { 1.0 } else { self.product / norms.max(f64::MIN_POSITIVE) },
            max_abs: self.largest,
            mean_abs: mean(self.magnitudes),
            peak: self.peak,
            values: self.values,
            non_finite: self.non_finite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilsons_interval() {
        // (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), worked out independently.
        let share = Proportion::new(95, 100).unwrap();
        assert!((share.low - 0.888_249).abs() < 1e-5 && (share.high - 0.978_456).abs() < 1e-5, "{share:?}");
        let all = Proportion::new(10, 10).unwrap();
        assert!((all.low - 0.722_467).abs() < 1e-5 && all.high > 0.999_999, "{all:?}");
        assert_eq!(Proportion::new(0, 0), None);
    }

    #[test]
    fn differences_by_hand() {
        let difference = Sums::of([3.0_f32, 4.0], [3.0_f32, 3.0]).difference();
        assert!((difference.snr_db - 10.0 * 25_f64.log10()).abs() < 1e-9);
        assert!((difference.psnr_db - 10.0 * 32_f64.log10()).abs() < 1e-9);
        assert!((difference.cosine - 21.0 / (25.0 * 18.0_f64).sqrt()).abs() < 1e-12);
        assert_eq!((difference.max_abs, difference.mean_abs), (1.0, 0.5));
        assert_eq!(Sums::of([1.0], [1.0]).difference().snr_db, f64::INFINITY);
        let broken = Sums::of([1.0, f64::NAN, 2.0], [f64::NAN, f64::NAN, 2.0]).difference();
        assert_eq!((broken.non_finite, broken.snr_db), (1, f64::NEG_INFINITY));
    }

    #[test]
    fn parts_add_up() {
        let (a, b) = ([1.0, -2.0, 3.0, 0.5], [1.5, -2.0, 2.0, 0.0]);
        let mut parts = Sums::of(a[..2].iter().copied(), b[..2].iter().copied());
        parts.add(&Sums::of(a[2..].iter().copied(), b[2..].iter().copied()));
        assert_eq!(parts.difference(), Sums::of(a, b).difference());
    }
}

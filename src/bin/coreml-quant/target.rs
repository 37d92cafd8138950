//! What a model is to reach instead of a number of bits: a size, or an error.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use coreml_quant::Target;

/// Mixed precision: a method for each weight, from a target or a file.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
pub struct Targets {
    /// Choose for each weight how to store it, so that the file has at most this size: bytes, 1.5MB, or 25% of the input.
    #[arg(long, value_name = "SIZE")]
    pub target_size: Option<Size>,
    /// The same for at most this many bits a value, on average.
    #[arg(long, value_name = "BITS", value_parser = bits)]
    pub target_bits: Option<f64>,
    /// The same for the smallest file with at least this signal-to-quantization-noise ratio.
    #[arg(long, value_name = "DB", value_parser = decibels, allow_negative_numbers = true)]
    pub target_sqnr: Option<f64>,
    /// Carry out the plan in this file.
    #[arg(long, value_name = "FILE.json")]
    pub plan_in: Option<PathBuf>,
}

impl Targets {
    /// The target, if there is one, for a file of `len` bytes.
    pub fn target(&self, len: u64) -> Option<Target> {
        let size = self.target_size.map(|size| Target::Bytes(size.bytes(len)));
        size.or(self.target_bits.map(Target::AverageBits)).or(self.target_sqnr.map(Target::SqnrDb))
    }
}

/// A number of bits that can be asked for.
pub fn bits(text: &str) -> Result<f64, String> {
    let refused = || format!("\"{text}\" is no number of bits; it is above 0, as 4 or 4.5");
    text.parse::<f64>().ok().filter(|bits| bits.is_finite() && *bits > 0.0).ok_or_else(refused)
}

/// A ratio in decibels that can be asked for.
pub fn decibels(text: &str) -> Result<f64, String> {
    let refused = || format!("\"{text}\" is no ratio in decibels; it is 0 or above, as 30");
    text.parse::<f64>().ok().filter(|decibels| decibels.is_finite() && *decibels >= 0.0).ok_or_else(refused)
}

/// A size in bytes, or a share of the input's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    /// So many.
    Bytes(f64),
    /// So much of the input's.
    Share(f64),
}

impl Size {
    /// The bytes, where the input has `len`.
    pub fn bytes(self, len: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes as u64,
            Self::Share(share) => (len as f64 * share) as u64,
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit_at = text.find(|c: char| c == '%' || c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let refused = || format!("\"{text}\" is no size; sizes are 400000, 400KB, 1.5MB, 1.5MiB or 25%");
        let number = number.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0).ok_or_else(refused)?;
        let bytes = |factor: f64| Ok(Self::Bytes(number * factor));
        match unit {
            "" | "B" => bytes(1.0),
            "KB" | "kB" => bytes(1e3),
            "MB" => bytes(1e6),
            "GB" => bytes(1e9),
            "KiB" => bytes(1024.0),
            "MiB" => bytes(1024.0 * 1024.0),
            "GiB" => bytes(1024.0 * 1024.0 * 1024.0),
            "%" => Ok(Self::Share(number / 100.0)),
            _ => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("400", 400), ("1.5MB", 1_500_000), ("2KiB", 2048), ("25%", 250), ("2 MB", 2_000_000)] {
            assert_eq!(text.parse::<Size>().unwrap().bytes(1000), bytes, "{text}");
        }
        for text in ["", "MB", "-1", "0", "inf", "NaN", "1TB", "1e999"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}

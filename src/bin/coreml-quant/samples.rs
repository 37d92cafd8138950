//! Samples of what a model will see, as an option names them.

use coreml_quant::Calibration;

/// How many samples are drawn unless a number is given.
const SAMPLES: usize = 128;

/// `synthetic`, `synthetic:N`.
pub fn calibration(text: &str) -> Result<Calibration, String> {
    let count = match text.split_once(':') {
        None if text == "synthetic" => SAMPLES,
        Some(("synthetic", count)) => match count.parse() {
            Ok(count) if (1..=MOST).contains(&count) => count,
            _ => return Err(format!("\"{count}\" is no number of samples from 1 to {MOST}")),
        },
        _ => return Err(format!("\"{text}\" names no samples; synthetic:128 draws some")),
    };
    Ok(Calibration::synthetic(count))
}

/// More take memory and gain nothing.
const MOST: usize = 100_000;

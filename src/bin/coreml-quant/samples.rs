//! What models are run on: a folder of images, arrays, lines of JSON, or samples that are drawn.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use coreml_quant::evaluate::{EvaluateError, Fit, Samples};
use coreml_quant::predict::Features;
use coreml_quant::{Calibration, Model};

use crate::failure::Failure;

/// Which samples.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Samples")]
pub struct SampleOptions {
    /// A folder of images (those in folders inside it have that folder's name as label), a .npz or .npy file whose first axis
    /// counts the samples, a .jsonl file, or `synthetic` for 128 samples that are drawn, `synthetic:256` for more.
    #[arg(long, value_name = "SAMPLES")]
    samples: Source,
    /// A text file with a label for each sample, one a line.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// What becomes of images of another size: stretch or crop.
    #[arg(long, value_name = "FIT", default_value = "stretch")]
    fit: FitName,
    /// What synthetic samples are drawn from.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FitName {
    Stretch,
    Crop,
}

/// Where samples come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// So many are drawn.
    Synthetic(usize),
    /// A folder or file.
    Path(PathBuf),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// Samples that are drawn unless a number is given.
        const SYNTHETIC: usize = 128;
        /// More take time and gain nothing.
        const MOST: usize = 100_000;
        match text.split_once(':') {
            _ if text == "synthetic" => Ok(Self::Synthetic(SYNTHETIC)),
            Some(("synthetic", count)) => match count.parse() {
                Ok(count) if (1..=MOST).contains(&count) => Ok(Self::Synthetic(count)),
                _ => Err(format!("\"{count}\" is no number of samples from 1 to {MOST}")),
            },
            _ => Ok(Self::Path(text.into())),
        }
    }
}

impl Source {
    /// The samples for a model.
    fn of(&self, model: &Model, fit: Fit, seed: u64) -> Result<Samples, Failure> {
        let path = match self {
            Self::Synthetic(count) => return Samples::synthetic(model, *count, seed).map_err(failed),
            Self::Path(path) => path,
        };
        let samples = match path.extension().and_then(|extension| extension.to_str()) {
            Some("npz" | "npy") => Samples::numpy(model, path),
            Some("json" | "jsonl" | "ndjson") => Samples::json_lines(model, path),
            _ => Samples::images(model, path, fit),
        };
        samples.map_err(failed)
    }

    /// Samples to calibrate on: the first 512, which are more than enough.
    pub fn calibration(&self, model: &Model) -> Result<Calibration, Failure> {
        /// Samples that are held in memory.
        const MOST: usize = 512;
        if let Self::Synthetic(count) = self {
            return Ok(Calibration::synthetic(*count));
        }
        let samples = self.of(model, Fit::default(), 0)?;
        let features: Result<Vec<Features>, EvaluateError> =
            samples.iter().take(MOST).map(|sample| Ok(sample?.features)).collect();
        Ok(Calibration::new(features.map_err(failed)?))
    }

    /// The folder or file that is read.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Synthetic(_) => None,
        }
    }
}

impl SampleOptions {
    /// The samples for a model.
    pub fn of(&self, model: &Model) -> Result<Samples, Failure> {
        let fit = match self.fit {
            FitName::Stretch => Fit::Stretch,
            FitName::Crop => Fit::Crop,
        };
        let samples = self.samples.of(model, fit, self.seed)?;
        let Some(path) = &self.labels else { return Ok(samples) };
        let text = fs::read_to_string(path).map_err(|error| Failure::of_file(path, &error))?;
        samples.with_labels(text.lines()).map_err(failed)
    }

    /// The files that are read.
    pub fn paths(&self) -> Vec<&Path> {
        self.samples.path().into_iter().chain(self.labels.as_deref()).collect()
    }
}

/// What evaluating fails with.
pub fn failed(error: EvaluateError) -> Failure {
    Failure::Job(error.to_string())
}

/// A share: `99%` or 0.99.
pub fn share(text: &str) -> Result<f64, String> {
    let refused = || format!("\"{text}\" is no share; shares are 99% or 0.99");
    let (number, factor) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let share = number.parse::<f64>().map_err(|_| refused())? * factor;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares() {
        assert_eq!(share("99%"), Ok(0.99));
        assert_eq!(share("0.5"), Ok(0.5));
        for text in ["", "99", "-1%", "NaN", "101%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}

//! Quantizes a model by what its weights do to the outputs of its layers on synthetic samples, and prints what that gained.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Parser;
use coreml_quant::{Calibration, Mode, Model, QuantConfig, quantize_weights};

/// Quantizes a Core ML model with calibration on synthetic samples.
#[derive(Parser)]
struct Options {
    /// The model to read.
    input: PathBuf,
    /// The model to write.
    output: PathBuf,
    /// linear, linear_symmetric or kmeans_lut.
    #[arg(long, default_value_t = Mode::KmeansLut)]
    mode: Mode,
    /// Bits of a weight.
    #[arg(long, default_value_t = 4)]
    nbits: u32,
    /// Number of samples.
    #[arg(long, default_value_t = 128)]
    samples: usize,
    /// The seed that they are drawn with.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let model = Model::open(&options.input)?;
    let calibration = Calibration::synthetic(options.samples).with_seed(options.seed).with_progress(|progress| {
        eprint!("\rlayer {} of {}", progress.layers_done, progress.layers);
        ControlFlow::Continue(())
    });
    let config = QuantConfig::from_mode(options.mode, Some(options.nbits))?.with_calibration(calibration);
    let quantized = quantize_weights(&model, &config)?;
    eprintln!();
    quantized.model.save(&options.output)?;
    if let Some(report) = &quantized.report.calibration {
        println!("{report}");
    }
    Ok(())
}

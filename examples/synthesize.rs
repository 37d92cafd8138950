//! Writes a large model with random weights, to measure with.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[path = "../benches/synthetic.rs"]
mod synthetic;

use synthetic::{Architecture, Distribution, model, parse_count};

/// Writes a Core ML model of equal layers with seeded random weights: the same options give the same file.
#[derive(Parser)]
struct Options {
    /// The model to write.
    output: PathBuf,
    /// What the layers are.
    #[arg(long, value_enum, default_value = "inner-product")]
    architecture: Architecture,
    /// How many layers there are.
    #[arg(long, value_name = "N", default_value_t = 60)]
    layers: usize,
    /// About how many weights there are in all, as 34M or 500k.
    #[arg(long, value_name = "N", default_value = "34M", value_parser = parse_count)]
    weights: usize,
    /// How the weights are distributed.
    #[arg(long, value_enum, default_value = "normal")]
    distribution: Distribution,
    /// Another seed gives other weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let model = model(options.architecture, options.layers.max(1), options.weights, options.distribution, options.seed);
    match model.save(&options.output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

//! Prints what each way to store a model's weights takes and costs, and what the automatic plan gains at the same size.
//!
//! For every model: uniform bit widths of each mode (with the gain of least-squares ranges), then the plan at the size of
//! uniform 4-bit kmeans_lut.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use coreml_quant::{
    Linear, LinearRange, LinearSymmetric, Mode, Model, Nbits, Planner, QuantConfig, Target, quantize_weights,
};

/// Compares uniform bit widths and the automatic plan.
#[derive(Parser)]
struct Options {
    /// Models to read.
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Leave out the table of the uniform bit widths.
    #[arg(long)]
    plan_only: bool,
    /// How the plan finds the ranges of the linear modes: min-max or least-squares.
    #[arg(long, default_value_t)]
    range: LinearRange,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut code = ExitCode::SUCCESS;
    for path in &options.models {
        println!("{}", path.display());
        if let Err(error) = run(&options, path) {
            eprintln!("error: {}: {error}", path.display());
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// Size of the file, and the ratio in decibels.
fn quantized(model: &Model, config: &QuantConfig) -> Result<(usize, f64), Box<dyn Error>> {
    let quantized = quantize_weights(model, config)?;
    Ok((quantized.model.to_bytes().len(), quantized.report.sqnr_db().ok_or("not measured")?))
}

fn run(options: &Options, path: &Path) -> Result<(), Box<dyn Error>> {
    let model = Model::open(path)?;
    if !options.plan_only {
        println!("  bits       linear  least-squares     symmetric  least-squares   linear_lut   kmeans_lut  (dB)");
        for bits in 1..=8 {
            let nbits = Nbits::new(bits).ok_or("bits")?;
            let sqnr = |config: QuantConfig| Ok::<f64, Box<dyn Error>>(quantized(&model, &config)?.1);
            let linear = |range| sqnr(QuantConfig::custom(Linear::new(nbits).with_range(range)));
            let symmetric = |range| sqnr(QuantConfig::custom(LinearSymmetric::new(nbits).with_range(range)));
            let [min_max, least_squares] = [linear(LinearRange::MinMax)?, linear(LinearRange::LeastSquares)?];
            print!("  {bits:4} {min_max:12.2} {least_squares:8.2} {:+5.2}", least_squares - min_max);
            if bits > 1 {
                let [min_max, least_squares] = [symmetric(LinearRange::MinMax)?, symmetric(LinearRange::LeastSquares)?];
                print!(" {min_max:13.2} {least_squares:8.2} {:+5.2}", least_squares - min_max);
            } else {
                print!(" {:>28}", "-");
            }
            let tables = [Mode::LinearLut, Mode::KmeansLut].map(|mode| QuantConfig::from_mode(mode, Some(bits)));
            for config in tables {
                print!(" {:12.2}", sqnr(config?)?);
            }
            println!();
        }
    }
    let start = Instant::now();
    let (target, uniform) = quantized(&model, &QuantConfig::kmeans_lut(4)?)?;
    let uniform_time = start.elapsed();
    let start = Instant::now();
    let plan = Planner::new(Target::Bytes(target as u64)).with_range(options.range).plan(&model)?;
    let plan_time = start.elapsed();
    let (bytes, sqnr) = quantized(&model, &QuantConfig::planned(plan))?;
    println!("  4-bit kmeans_lut: {target} bytes, {uniform:.2} dB, {:.1} ms", uniform_time.as_secs_f64() * 1e3);
    println!(
        "  plan:             {bytes} bytes ({:+.2} %), {sqnr:.2} dB: {:+.2} dB, planned in {:.1} ms",
        100.0 * (bytes as f64 / target as f64 - 1.0),
        sqnr - uniform,
        plan_time.as_secs_f64() * 1e3,
    );
    Ok(())
}

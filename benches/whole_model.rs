//! The whole job, file to file, against a copy of the file: both in turn, so that a busy machine slows both, and the
//! ratio of each pair is what counts.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use clap::Parser;
use coreml_quant::{KmeansLut, Mode, Model, Nbits, QuantConfig, SaveOptions, quantize_to_file};
use memmap2::Mmap;

#[path = "synthetic.rs"]
mod synthetic;

use synthetic::{Architecture, Distribution, model, parse_count};

/// Quantizes a model in every mode, and prints how long that takes in file copies.
#[derive(Parser)]
struct Options {
    /// Accepted because `cargo bench` passes it.
    #[arg(long, hide = true)]
    bench: bool,
    /// What the layers are.
    #[arg(long, value_enum, default_value = "inner-product")]
    architecture: Architecture,
    /// How many layers there are.
    #[arg(long, default_value_t = 60)]
    layers: usize,
    /// About how many weights there are in all.
    #[arg(long, default_value = "34M", value_parser = parse_count)]
    weights: usize,
    /// How the weights are distributed.
    #[arg(long, value_enum, default_value = "normal")]
    distribution: Distribution,
    /// How often each job runs.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Only modes whose name contains this.
    #[arg(long)]
    mode: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let input = folder.path().join("input.mlmodel");
    model(options.architecture, options.layers, options.weights, options.distribution, 1).save(&input)?;
    let bytes = fs::metadata(&input)?.len();
    let threads = rayon::current_num_threads();
    println!(
        "{bytes} bytes, {} layers, {threads} threads, {} runs; ratios to a file copy",
        options.layers, options.runs
    );
    println!("{:30} {:>8} {:>8} {:>8} {:>10} {:>10}", "mode", "minimum", "median", "maximum", "copy ms", "job ms");

    for (name, config) in configs()? {
        if options.mode.as_ref().is_some_and(|part| !name.contains(part.as_str())) {
            continue;
        }
        let mut source = input.clone();
        if name.starts_with("dequantize") {
            source = folder.path().join("quantized.mlmodel");
            quantize(&input, &source, &QuantConfig::linear(8)?)?;
        }
        let (mut ratios, mut copies, mut jobs) = (Vec::new(), Vec::new(), Vec::new());
        // The first pair warms up.
        for pair in 0..=options.runs {
            let copy = time(&folder.path().join("copy"), |path| fs::copy(&input, path).map(drop).map_err(Into::into))?;
            let job = time(&folder.path().join("job"), |path| quantize(&source, path, &config))?;
            if pair > 0 {
                ratios.push(job / copy);
                copies.push(1e3 * copy);
                jobs.push(1e3 * job);
            }
        }
        for figures in [&mut ratios, &mut copies, &mut jobs] {
            figures.sort_by(f64::total_cmp);
        }
        let median = |figures: &[f64]| figures[figures.len() / 2];
        println!(
            "{name:30} {:8.2} {:8.2} {:8.2} {:10.1} {:10.1}",
            ratios[0],
            median(&ratios),
            ratios[ratios.len() - 1],
            median(&copies),
            median(&jobs)
        );
    }
    Ok(())
}

fn configs() -> Result<Vec<(String, QuantConfig)>, coreml_quant::ConfigError> {
    let mut configs = Vec::new();
    for &mode in Mode::all() {
        match mode {
            Mode::CustomLut | Mode::Int8Matmul => {}
            _ if mode.nbits().is_empty() => configs.push((mode.to_string(), QuantConfig::from_mode(mode, None)?)),
            _ => {
                for nbits in [8, 4] {
                    configs.push((format!("{mode} {nbits}"), QuantConfig::from_mode(mode, Some(nbits))?));
                }
            }
        }
    }
    configs.push(("kmeans_lut 8, sorted".to_owned(), QuantConfig::custom(KmeansLut::new(Nbits::EIGHT).sorted())));
    // What is measured is the job that the program does with --quiet; this is the same with the errors of all weights.
    let measured: Vec<_> =
        configs.iter().map(|(name, config)| (format!("{name}, errors"), config.clone().with_measure(true))).collect();
    let plain = configs.into_iter().map(|(name, config)| (name, config.with_measure(false)));
    Ok(plain.chain(measured).collect())
}

/// Seconds that a job takes to write a file that was not there before.
fn time(path: &Path, job: impl FnOnce(&Path) -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let start = Instant::now();
    job(path)?;
    Ok(start.elapsed().as_secs_f64())
}

fn quantize(input: &Path, output: &Path, config: &QuantConfig) -> Result<(), Box<dyn Error>> {
    // SAFETY: nobody else knows the temporary file.
    #[expect(unsafe_code, reason = "mapping a file is the caller's decision, which the library leaves to it")]
    let map = unsafe { Mmap::map(&File::open(input)?)? };
    let model = Model::from_bytes(Bytes::from_owner(map))?;
    quantize_to_file(&model, config, output, &SaveOptions::default())?;
    Ok(())
}

//! Quantizes the weights of a Core ML model, or only folds its layers, and prints what became of each.

use std::error::Error;
use std::fmt::Display;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use bytes::Bytes;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use coreml_quant::{
    AdvancedSelector, ConfigError, Fold, FoldReason, FoldReport, LayerSelector, Mode, Model, Outcome, QuantConfig,
    Report, SaveOptions, WeightInfo, fold, quantize_to_file,
};
use memmap2::Mmap;
use serde_json::{Value, json};

/// Stores the weights of a Core ML neural network (.mlmodel) in fewer bits.
#[derive(Parser)]
struct Options {
    /// The model to read.
    input: PathBuf,
    /// The model to write; may be the same file.
    output: PathBuf,
    /// How to store the weights: float16, linear, linear_symmetric, linear_lut, kmeans_lut, dequantize, int8_matmul; or
    /// fold, which only multiplies batchnorm, scale and bias layers into the layer before them.
    #[arg(long)]
    mode: Job,
    /// Bits of a weight, 1 to 8 (linear_symmetric: 2 to 8), for the modes that have a choice.
    #[arg(long, value_name = "N")]
    nbits: Option<u32>,
    /// Do not multiply batchnorm, scale and bias layers into the layer before them first.
    #[arg(long)]
    no_fold: bool,
    /// Say why layers were not multiplied into the layer before them.
    #[arg(long)]
    explain: bool,
    /// Leave the layer with this name as it is. May be given several times.
    #[arg(long, value_name = "NAME")]
    skip_layer: Vec<String>,
    /// Leave layers of this type as they are: a type's name, `bias` or `depthwiseConv`. May be given several times.
    #[arg(long, value_name = "TYPE")]
    skip_layer_type: Vec<String>,
    /// Leave convolutions with fewer kernel channels as they are.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    min_conv_kernel_channels: u64,
    /// Leave convolutions with fewer weights as they are.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    min_conv_weight_count: u64,
    /// Convert weights even if they do not get smaller.
    #[arg(long)]
    allow_growth: bool,
    /// Number of threads; as many as there are cores unless given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Write the report to this file, as JSON.
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Print nothing but errors.
    #[arg(long)]
    quiet: bool,
}

/// What to do.
#[derive(Clone, Copy)]
enum Job {
    Fold,
    Quantize(Mode),
}

impl FromStr for Job {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        if name == "fold" { Ok(Self::Fold) } else { name.parse().map(Self::Quantize) }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let refuse = |kind, error: &dyn Display| -> ! { Options::command().error(kind, error).exit() };
    let result = match options.mode {
        Job::Fold if options.no_fold || options.nbits.is_some() => {
            refuse(ErrorKind::ArgumentConflict, &"mode fold goes neither with --no-fold nor with --nbits")
        }
        Job::Fold => fold_only(&options),
        Job::Quantize(mode) => match configure(mode, &options) {
            Ok(config) => quantize(&options, &config),
            Err(error) => refuse(ErrorKind::ValueValidation, &error),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn configure(mode: Mode, options: &Options) -> Result<QuantConfig, ConfigError> {
    let skip_layer = options.skip_layer.clone();
    let selector = AdvancedSelector::new(&options.skip_layer_type)?
        .minimum_conv_kernel_channels(options.min_conv_kernel_channels)
        .minimum_conv_weight_count(options.min_conv_weight_count)
        .and(move |weight: &WeightInfo<'_>| !skip_layer.iter().any(|name| name == weight.layer_name));
    let mut config = QuantConfig::from_mode(mode, options.nbits)?.with_selector(selector);
    if options.no_fold {
        config = config.with_fold(false);
    }
    if options.allow_growth {
        config = config.with_growth(true);
    }
    Ok(config)
}

fn quantize(options: &Options, config: &QuantConfig) -> Result<(), Box<dyn Error>> {
    if let Some(threads) = options.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let model = open(&options.input)?;
    let report = quantize_to_file(&model, config, &options.output, &SaveOptions::default())?;
    finish(options, &report, || json_of(&report))
}

fn fold_only(options: &Options) -> Result<(), Box<dyn Error>> {
    let folded = fold(&open(&options.input)?)?;
    folded.model.save(&options.output)?;
    finish(options, &folded.report, || json_of_folds(&folded.report))
}

/// Hands the report out.
fn finish(options: &Options, report: &impl Display, json: impl Fn() -> Value) -> Result<(), Box<dyn Error>> {
    if let Some(path) = &options.report {
        serde_json::to_writer_pretty(File::create(path)?, &json())?;
    }
    match options {
        Options { quiet: true, .. } => {}
        Options { explain: true, .. } => println!("{report:#}"),
        _ => println!("{report}"),
    }
    Ok(())
}

/// Opens a model through a memory map, so that its weights are read once, when they are quantized.
fn open(path: &PathBuf) -> Result<Model, Box<dyn Error>> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if !file.metadata()?.is_file() {
        // A folder gets its explanation there.
        return Ok(Model::open(path)?);
    }
    // SAFETY: a map is sound as long as nobody changes the file while it is mapped. This program does not: its own
    // output is a new file that replaces the old one by name. Another program that writes into the file at this very
    // moment would spoil any copy of it too; one that truncates it ends this program with a signal.
    #[expect(unsafe_code, reason = "mapping a file is the caller's decision, which the library leaves to it")]
    let map = unsafe { Mmap::map(&file) };
    match map {
        Ok(map) => {
            Ok(Model::from_bytes(Bytes::from_owner(map)).map_err(|error| format!("{}: {error}", path.display()))?)
        }
        // Not everything can be mapped; everything can be read.
        Err(_) => Ok(Model::open(path)?),
    }
}

fn json_of(report: &Report) -> Value {
    let weights = report.weights.iter().map(|weight| {
        json!({
            "network": &*weight.place.network,
            "layer": &*weight.place.layer,
            "type": weight.place.layer_type,
            "field": weight.place.field,
            "shape": weight.shape,
            "before": weight.before.to_string(),
            "after": weight.after.to_string(),
            "bytes_before": weight.bytes_before(),
            "bytes_after": weight.bytes_after(),
            "kept_because": match weight.outcome {
                Outcome::Kept(reason) => Some(reason.to_string()),
                _ => None,
            },
        })
    });
    let totals = report.totals();
    json!({
        "fold": json_of_folds(&report.folds),
        "weights": weights.collect::<Vec<_>>(),
        "totals": {
            "weights": totals.weights,
            "converted": totals.converted,
            "values": totals.values,
            "bytes_before": totals.bytes_before,
            "bytes_after": totals.bytes_after,
        },
    })
}

fn json_of_folds(report: &FoldReport) -> Value {
    let row = |fold: &Fold, reason: Option<FoldReason>| {
        json!({
            "network": &*fold.network,
            "layer": &*fold.layer,
            "type": fold.layer_type,
            "into": &*fold.into,
            "into_type": fold.into_type,
            "not_folded_because": reason.map(|reason| reason.to_string()),
        })
    };
    let folds = report.folds.iter().map(|fold| row(fold, None));
    let not_folded = report.not_folded.iter().map(|not_folded| row(&not_folded.candidate, Some(not_folded.reason)));
    json!({
        "folds": folds.collect::<Vec<_>>(),
        "not_folded": not_folded.collect::<Vec<_>>(),
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
    })
}

//! Quantizes the weights of a Core ML model, or only folds its layers, and prints what became of each.

use std::error::Error;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use bytes::Bytes;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser};
use coreml_quant::proto::NeuralNetworkLayer;
use coreml_quant::{
    AdvancedSelector, ConfigError, Fold, FoldReason, FoldReport, LayerSelector, Linear, LinearRange, LinearSymmetric,
    Mode, Model, Nbits, Outcome, Plan, Planner, QuantConfig, Report, SaveOptions, Target, WeightInfo, fold_except,
    layer_type, quantize_to_file,
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
    /// With a target: the only mode to choose from; all unless given.
    #[arg(long, required_unless_present_any = ["target_size", "target_bits", "target_sqnr", "plan_in"])]
    mode: Option<Job>,
    /// Bits of a weight, 1 to 8 (linear_symmetric: 2 to 8), for the modes that have a choice.
    #[arg(long, value_name = "N", conflicts_with = "Targets")]
    nbits: Option<u32>,
    /// How the linear modes find the range of a channel: min-max or least-squares.
    #[arg(long, default_value_t)]
    range: LinearRange,
    #[command(flatten)]
    targets: Targets,
    /// Do not multiply batchnorm, scale and bias layers into the layer before them first.
    #[arg(long)]
    no_fold: bool,
    /// Make the mean image that is subtracted from an image the weight of a bias layer first, and quantize that.
    #[arg(long)]
    mean_image_as_bias: bool,
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
    /// Write the plan that meets the target to this file, as JSON: to read, edit and carry out with --plan-in.
    #[arg(long, value_name = "FILE.json")]
    plan_out: Option<PathBuf>,
    /// Do not measure the error of each weight.
    #[arg(long)]
    no_measure: bool,
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

/// Mixed precision: a method for each weight, from a target or a file.
#[derive(Args)]
#[group(multiple = false)]
struct Targets {
    /// Choose for each weight how to store it, so that the file has at most this size: bytes, 1.5MB, or 25% of the input.
    #[arg(long, value_name = "SIZE")]
    target_size: Option<Size>,
    /// The same for at most this many bits a value, on average.
    #[arg(long, value_name = "BITS")]
    target_bits: Option<f64>,
    /// The same for the smallest file with at least this signal-to-quantization-noise ratio.
    #[arg(long, value_name = "DB")]
    target_sqnr: Option<f64>,
    /// Carry out the plan in this file.
    #[arg(long, value_name = "FILE.json", conflicts_with = "mode")]
    plan_in: Option<PathBuf>,
}

/// A size in bytes, or a share of the input's.
#[derive(Clone, Copy)]
enum Size {
    Bytes(f64),
    Share(f64),
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit_at = text.find(|c: char| c == '%' || c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let refused = || format!("\"{text}\" is no size; sizes are 400000, 400KB, 1.5MB, 1.5MiB or 25%");
        let number = number.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(refused)?;
        let bytes = |factor: f64| Ok(Self::Bytes(number * factor));
        match unit {
            "" | "B" => bytes(1.0),
            "KB" | "kB" => bytes(1e3),
            "MB" => bytes(1e6),
            "GB" => bytes(1e9),
            "KiB" => bytes(1024.0),
            "MiB" => bytes(1024.0 * 1024.0),
            "%" => Ok(Self::Share(number / 100.0)),
            _ => Err(refused()),
        }
    }
}

impl Targets {
    /// Whether the methods come from a target or a file.
    fn given(&self) -> bool {
        self.target(0).is_some() || self.plan_in.is_some()
    }

    /// The target, if there is one, for a file of `len` bytes.
    fn target(&self, len: u64) -> Option<Target> {
        let size = self.target_size.map(|size| match size {
            Size::Bytes(bytes) => Target::Bytes(bytes as u64),
            Size::Share(share) => Target::Bytes((len as f64 * share) as u64),
        });
        size.or(self.target_bits.map(Target::AverageBits)).or(self.target_sqnr.map(Target::SqnrDb))
    }
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
        Some(Job::Fold)
            if options.no_fold || options.mean_image_as_bias || options.nbits.is_some() || options.targets.given() =>
        {
            let what = "mode fold goes neither with --no-fold nor with --mean-image-as-bias nor --nbits nor a target";
            refuse(ErrorKind::ArgumentConflict, &what)
        }
        Some(Job::Fold) => fold_only(&options),
        Some(Job::Quantize(mode)) if !options.targets.given() => match configure(mode, &options) {
            Ok(config) => start(&options).and_then(|model| quantize(&options, model, config)),
            Err(error) => refuse(ErrorKind::ValueValidation, &error),
        },
        _ => match selector(&options) {
            Ok(selector) => quantize_planned(&options, selector),
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

/// What the options leave of the weights.
fn selector(options: &Options) -> Result<impl LayerSelector + 'static, ConfigError> {
    let skip_layer = options.skip_layer.clone();
    Ok(AdvancedSelector::new(&options.skip_layer_type)?
        .minimum_conv_kernel_channels(options.min_conv_kernel_channels)
        .minimum_conv_weight_count(options.min_conv_weight_count)
        .and(move |weight: &WeightInfo<'_>| !skip_layer.iter().any(|name| name == weight.layer_name)))
}

/// One mode for all weights.
fn configure(mode: Mode, options: &Options) -> Result<QuantConfig, ConfigError> {
    // Also checks the bits.
    let config = QuantConfig::from_mode(mode, options.nbits)?;
    let config = match (mode, options.nbits.and_then(Nbits::new)) {
        (Mode::Linear, Some(nbits)) => QuantConfig::custom(Linear::new(nbits).with_range(options.range)),
        (Mode::LinearSymmetric, Some(nbits)) => {
            QuantConfig::custom(LinearSymmetric::new(nbits).with_range(options.range))
        }
        _ => config,
    };
    let mut config = config.with_selector(selector(options)?).with_mean_image_as_bias(options.mean_image_as_bias);
    if options.no_fold {
        config = config.with_fold(false);
    }
    if options.allow_growth {
        config = config.with_growth(true);
    }
    Ok(config)
}

/// A method for each weight, read or chosen.
fn plan(options: &Options, model: &Model, selector: impl LayerSelector + 'static) -> Result<Plan, Box<dyn Error>> {
    if let Some(path) = &options.targets.plan_in {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let file = File::open(path).map_err(|error| named(&error))?;
        return Ok(serde_json::from_reader(file).map_err(|error| named(&error))?);
    }
    let len = std::fs::metadata(&options.input)?.len();
    let target = options.targets.target(len).ok_or("there is no target")?;
    let mut planner = Planner::new(target).with_range(options.range).with_selector(selector);
    if let Some(Job::Quantize(mode)) = options.mode {
        planner = planner.with_modes([mode]);
    }
    if options.no_fold {
        planner = planner.with_fold(false);
    }
    planner = planner.with_mean_image_as_bias(options.mean_image_as_bias);
    Ok(planner.plan(model)?)
}

/// Opens the input, with as many threads to work on it as asked for. It stays until the process ends, which takes all
/// of its memory back at once instead of layer by layer.
fn start(options: &Options) -> Result<&'static Model, Box<dyn Error>> {
    if let Some(threads) = options.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    Ok(Box::leak(Box::new(open(&options.input)?)))
}

fn quantize_planned(options: &Options, selector: impl LayerSelector + 'static) -> Result<(), Box<dyn Error>> {
    let model = start(options)?;
    let plan = plan(options, model, selector)?;
    if let Some(path) = &options.plan_out {
        fs::write(path, serde_json::to_string_pretty(&plan)?)?;
    }
    quantize(options, model, QuantConfig::planned(plan))
}

fn quantize(options: &Options, model: &Model, config: QuantConfig) -> Result<(), Box<dyn Error>> {
    // Nobody would see the errors of a quiet run without a report.
    let seen = !options.quiet || options.report.is_some();
    let config = config.with_measure(seen && !options.no_measure);
    let report = quantize_to_file(model, &config, &options.output, &SaveOptions::default())?;
    finish(options, &report, || json_of(&report))
}

fn fold_only(options: &Options) -> Result<(), Box<dyn Error>> {
    let keeps = |_: &str, layer: &NeuralNetworkLayer| {
        options.skip_layer.contains(&layer.name)
            || layer_type(layer).is_some_and(|kind| options.skip_layer_type.iter().any(|skipped| skipped == kind))
    };
    let folded = fold_except(&open(&options.input)?, keeps)?;
    folded.model.save(&options.output)?;
    finish(options, &folded.report, || json_of_folds(&folded.report))
}

/// Hands the report out.
fn finish(options: &Options, report: &impl Display, json: impl Fn() -> Value) -> Result<(), Box<dyn Error>> {
    if let Some(path) = &options.report {
        fs::write(path, serde_json::to_string_pretty(&json())?)?;
    }
    match options {
        Options { quiet: true, .. } => {}
        // At once: line by line is slow where there are thousands.
        Options { explain: true, .. } => io::stdout().write_all(format!("{report:#}\n").as_bytes())?,
        _ => io::stdout().write_all(format!("{report}\n").as_bytes())?,
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
            // null where nothing changed (infinite) or nothing was measured.
            "sqnr_db": weight.distortion.map(|distortion| distortion.sqnr_db()),
            "max_error": weight.distortion.map(|distortion| distortion.max_error()),
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
            "sqnr_db": report.sqnr_db(),
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

//! `coreml-quant quantize`: stores the weights of a model in fewer bits.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use coreml_quant::{
    Biases, DeploymentTarget, Granularity, Linear, LinearRange, LinearSymmetric, Method, Mode, Model, Nbits, Plan,
    QuantConfig, Report, SaveOptions, SymmetricBits, WeightReport, quantize_to_file, quantize_weights,
};

use crate::failure::{Failure, Status};
use crate::input;
use crate::names;
use crate::output;
use crate::plan::Planning;
use crate::report::Shown;
use crate::samples::Source;
use crate::selection::{Rule, Selection};
use crate::target::Targets;
use crate::writing::{Done, Writing, json_of, sizes};

/// Stores the weights of a model in fewer bits: 8-bit linear unless told otherwise.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// The model to read; `-` is standard input.
    input: PathBuf,
    /// The model to write; `-` is standard output.
    #[arg(required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// How to store the weights: float16, linear, linear_symmetric, linear_lut, kmeans_lut, dequantize or int8_matmul;
    /// linear unless given. With a target: the only mode to choose from, all unless given.
    #[arg(long, value_parser = names::mode)]
    mode: Option<Mode>,
    /// Bits of a weight, 1 to 8 (linear_symmetric: 2 to 8), for the modes that have a choice; 8 unless given. 16 is float16.
    #[arg(long, value_name = "N", conflicts_with = "Targets")]
    nbits: Option<u32>,
    /// How the linear modes find the range of a channel: min-max or least-squares.
    #[arg(long, conflicts_with = "plan_in")]
    range: Option<LinearRange>,
    #[command(flatten)]
    targets: Targets,
    /// A method for the layers of a name or type, as 'conv_*=linear:8' or 'type:innerProduct=kmeans_lut:4' or 'head=keep'.
    /// The first rule that fits decides. May be given several times.
    #[arg(long = "rule", value_name = "PATTERN=METHOD", conflicts_with = "Targets")]
    rules: Vec<Rule>,
    /// How biases and other vectors are stored beside weights of 8 bits or fewer: float16, as-weights (as coremltools does
    /// it) or keep; float16 unless given.
    #[arg(long, conflicts_with = "plan_in")]
    biases: Option<Biases>,
    /// Choose weights by the outputs of their layers on samples: a folder of images, a .npz, .npy or .jsonl file, or
    /// `synthetic` or `synthetic:N`, which draws N (128 unless given).
    #[arg(long, value_name = "SAMPLES", conflicts_with = "dry_run")]
    calibrate: Option<Source>,
    /// In ML Programs: which values share a scale or a table: per_tensor, per_channel, per_block(32) or
    /// per_grouped_channel(16).
    #[arg(long, conflicts_with = "Targets")]
    granularity: Option<Granularity>,
    /// In ML Programs: the oldest system that has to read the model: iOS16, iOS17, iOS18 or iOS26.
    #[arg(long, value_name = "SYSTEM", conflicts_with = "Targets")]
    deployment_target: Option<DeploymentTarget>,
    /// Quantize again what is stored in 8 bits or fewer.
    #[arg(long, conflicts_with = "plan_in")]
    requantize: bool,
    /// Multiply batchnorm, scale and bias layers into the layer before them first: the default below 16 bits.
    #[arg(long, conflicts_with_all = ["no_fold", "plan_in"])]
    fold: bool,
    /// Do not.
    #[arg(long, conflicts_with_all = ["plan_in", "explain"])]
    no_fold: bool,
    /// Make the mean image that is subtracted from an image the weight of a bias layer first, and quantize that.
    #[arg(long, conflicts_with = "plan_in")]
    mean_image_as_bias: bool,
    /// Say why layers were not multiplied into the layer before them.
    #[arg(long, conflicts_with = "quiet")]
    explain: bool,
    #[command(flatten)]
    selection: Selection,
    /// Convert weights even if they do not get smaller.
    #[arg(long, conflicts_with = "Targets")]
    allow_growth: bool,
    /// Leave weights as they are that their new form cannot hold (NaN, infinities, numbers beyond float16), instead of
    /// failing.
    #[arg(long)]
    keep_unrepresentable: bool,
    /// Write the plan, a method for each weight, to this file, as JSON: to read, edit and carry out with --plan-in.
    #[arg(long, value_name = "FILE.json")]
    plan_out: Option<PathBuf>,
    /// Write nothing: only say what would become of each weight, and the size.
    #[arg(long, conflicts_with_all = ["report", "plan_out", "quiet", "in_place", "no_check"])]
    dry_run: bool,
    /// Do not measure the error of each weight.
    #[arg(long)]
    no_measure: bool,
    #[command(flatten)]
    writing: Writing,
}

const EXAMPLES: &str = "\
Examples:
  coreml-quant quantize A.mlmodel B.mlmodel                          8 bits, linear
  coreml-quant quantize A.mlmodel B.mlmodel --mode kmeans_lut --nbits 4
  coreml-quant quantize A.mlmodel B.mlmodel --target-size 25%        mixed precision
  coreml-quant quantize A.mlmodel B.mlmodel --nbits 4 --rule 'conv_1=linear:8' --rule 'head=keep'
  coreml-quant quantize A.mlmodel B.mlmodel --set license=MIT com.example.bits=8";

/// What converts the weights.
enum Job {
    /// One mode, with its bits; rules before it.
    Mode(Mode, Option<u32>),
    /// A method for each weight.
    Planned,
}

/// A linear mode with a range; `None` for other modes and numbers of bits that it does not have.
pub fn of_mode(mode: Mode, nbits: Option<u32>, range: LinearRange) -> Option<QuantConfig> {
    match mode {
        Mode::Linear => Some(QuantConfig::custom(Linear::new(Nbits::new(nbits?)?).with_range(range))),
        Mode::LinearSymmetric => {
            Some(QuantConfig::custom(LinearSymmetric::new(SymmetricBits::new(nbits?)?).with_range(range)))
        }
        _ => None,
    }
}

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        let job = self.job()?;
        let plan_in = self.targets.plan_in.as_deref();
        let samples = self.calibrate.as_ref().and_then(Source::path);
        let read: Vec<&Path> = plan_in.into_iter().chain(samples).collect();
        let Some(output) = self.output.as_deref().filter(|_| !self.dry_run) else { return self.dry_run(&job) };
        let extra: Vec<&Path> = self.plan_out.as_deref().into_iter().collect();
        let files = self.writing.start(&self.input, output, &read, &extra)?;
        self.selection.check(&self.rules, files.model)?;
        let config = self.config(&job, files.model, files.input.len)?;
        let config = config.with_measure((self.writing.seen() || self.plan_out.is_some()) && !self.no_measure);
        let report = {
            let bar = self.writing.running.bar();
            quantize_to_file(files.model, &bar.follow(config.clone()), files.output_path(), &SaveOptions::default())?
        };
        let plan = match self.plan_out {
            Some(_) => {
                vec![serde_json::to_string_pretty(&self.plan_of(
                    &job,
                    files.model,
                    files.input.len,
                    &config,
                    &report,
                )?)?]
            }
            None => Vec::new(),
        };
        files.finish(&self.writing, self.explain, Done::Quantized(&report), &plan)
    }

    fn dry_run(&self, job: &Job) -> Result<Status, Failure> {
        self.writing.running.start()?;
        let input = input::open(&self.input)?;
        let model = self.writing.described(input.model);
        self.selection.check(&self.rules, model)?;
        let config = self.config(job, model, input.len)?.with_measure(!self.no_measure);
        let quantized = {
            let bar = self.writing.running.bar();
            quantize_weights(model, &bar.follow(config))?
        };
        let len = prost::Message::encoded_len(quantized.model.proto()) as u64;
        let done = Done::Quantized(&quantized.report);
        if self.writing.json {
            let json = json_of(&self.input, input.len, None, len, done);
            output::print(&serde_json::to_string_pretty(&json)?)?;
        } else {
            let text = done.text(Shown { full: self.writing.full, explain: self.explain });
            output::print(&format!("{text}would write {}", sizes(input.len, len, done)))?;
        }
        Ok(Status::Done)
    }

    /// What is asked for, if it makes sense.
    fn job(&self) -> Result<Job, Failure> {
        let usage = |message: &str| Err(Failure::Usage(message.to_owned()));
        let planned = self.targets.target(0).is_some() || self.targets.plan_in.is_some();
        let mode = match (planned, self.mode, self.nbits) {
            (true, _, _) => None,
            (false, None, Some(16)) => Some(Mode::Float16),
            (false, mode, _) => Some(mode.unwrap_or(Mode::Linear)),
        };
        let Some(mode) = mode else {
            if self.targets.plan_in.is_some() {
                if self.mode.is_some() || self.selection.given() {
                    return usage(
                        "--plan-in says what becomes of each weight; --mode and the options that choose \
                                  weights would not be heeded",
                    );
                }
            } else if self.mode.is_some_and(|mode| Method::of_mode(mode, LinearRange::MinMax).is_empty()) {
                return usage(
                    "no plan can be made of this mode; a target goes with float16, linear, \
                              linear_symmetric, linear_lut and kmeans_lut",
                );
            }
            return Ok(Job::Planned);
        };
        if self.range.is_some() && !matches!(mode, Mode::Linear | Mode::LinearSymmetric) {
            return usage("--range goes with the modes linear and linear_symmetric");
        }
        if self.plan_out.is_some() && matches!(mode, Mode::Dequantize | Mode::Int8Matmul) {
            return usage("no plan can be made of the modes dequantize and int8_matmul");
        }
        let nbits = self.nbits.or((!mode.nbits().is_empty()).then_some(8));
        // Also checks the bits.
        QuantConfig::from_mode(mode, nbits)?;
        Ok(Job::Mode(mode, nbits))
    }

    fn config(&self, job: &Job, model: &Model, len: u64) -> Result<QuantConfig, Failure> {
        let (mode, nbits) = match job {
            Job::Mode(mode, nbits) => (*mode, *nbits),
            Job::Planned => {
                let config = QuantConfig::planned(self.plan(model, len)?);
                let config = match &self.calibrate {
                    Some(source) => config.with_calibration(source.calibration(model)?),
                    None => config,
                };
                return Ok(if self.keep_unrepresentable { config.with_fallback(true) } else { config });
            }
        };
        let range = self.range.unwrap_or_default();
        let mut config = match of_mode(mode, nbits, range) {
            Some(method) => method,
            None => QuantConfig::from_mode(mode, nbits)?,
        };
        config = config.with_selector(self.selection.selector());
        for rule in &self.rules {
            config = match rule.method.quantizer() {
                Some(quantizer) => config.with_rule(rule.selector(), quantizer),
                None => config.with_keep(rule.selector()),
            };
        }
        if self.fold || self.no_fold {
            config = config.with_fold(self.fold);
        }
        if let Some(granularity) = self.granularity {
            config = config.with_granularity(granularity);
        }
        if let Some(target) = self.deployment_target {
            config = config.with_target(target);
        }
        if let Some(biases) = self.biases {
            config = config.with_biases(biases);
        }
        if let Some(source) = &self.calibrate {
            config = config.with_calibration(source.calibration(model)?);
        }
        if self.mean_image_as_bias {
            config = config.with_mean_image_as_bias(true);
        }
        if self.requantize {
            config = config.with_requantize(true);
        }
        if self.keep_unrepresentable {
            config = config.with_fallback(true);
        }
        if self.allow_growth {
            config = config.with_growth(true);
        }
        Ok(config)
    }

    /// A method for each weight, read or chosen.
    fn plan(&self, model: &Model, len: u64) -> Result<Plan, Failure> {
        if let Some(path) = &self.targets.plan_in {
            let named = |error: &dyn std::fmt::Display| Failure::of_file(path, error);
            let text = fs::read(path).map_err(|error| named(&error))?;
            return serde_json::from_slice(&text).map_err(|error| named(&error));
        }
        let target = self.targets.target(len).ok_or_else(|| Failure::Usage("there is no target".to_owned()))?;
        let planning = Planning {
            target,
            mode: self.mode,
            range: self.range.unwrap_or_default(),
            selection: &self.selection,
            requantize: self.requantize,
            fold: !self.no_fold,
            mean_image_as_bias: self.mean_image_as_bias,
            biases: self.biases,
            calibration: self.calibrate.as_ref().map(|source| source.calibration(model)).transpose()?,
        };
        planning.plan(model)
    }

    /// The plan that does again what was done.
    fn plan_of(
        &self,
        job: &Job,
        model: &Model,
        len: u64,
        config: &QuantConfig,
        report: &Report,
    ) -> Result<Plan, Failure> {
        let Job::Mode(mode, nbits) = job else { return self.plan(model, len) };
        let range = self.range.unwrap_or_default();
        let of_mode = Method::of_mode(*mode, range);
        // One for each number of bits, the smallest first.
        let index = nbits.unwrap_or_default().saturating_sub(*mode.nbits().start()) as usize;
        let default = of_mode.get(index).copied().unwrap_or(Method::Keep);
        let layers = model.layers();
        let method = |weight: &WeightReport| {
            let place = &weight.place;
            let survey =
                layers.iter().find(|layer| layer.network == place.network && *layer.layer.name == *place.layer);
            let info = survey.map(|layer| layer.info(&place.field, &weight.shape));
            let by_rule = info.and_then(|info| Rule::first(&self.rules, &info));
            by_rule.unwrap_or(default)
        };
        Ok(Plan::of_report(model, config, report, method)?)
    }
}

//! `coreml-quant plan`: a method for each weight, from a target.

use std::path::{Path, PathBuf};

use clap::Args;
use coreml_quant::{Biases, Calibration, LinearRange, Mode, Model, Plan, PlannedWeight, Planner, Target};

use crate::failure::{Failure, Status};
use crate::input;
use crate::names;
use crate::output::{self, Output, refuse_same};
use crate::progress::Running;
use crate::samples::Source;
use crate::selection::Selection;
use crate::table::{Align, decibels, table, terminal_width, thousands};
use crate::target::{Size, Targets};

/// Chooses for each weight how to store it, so that a size or an error is kept; for `quantize --plan-in`.
#[derive(Args, Debug)]
pub struct Options {
    /// The model to read; `-` is standard input.
    model: PathBuf,
    #[command(flatten)]
    target: PlanTarget,
    /// The modes to choose from: float16, linear, linear_symmetric, linear_lut, kmeans_lut; all unless given.
    #[arg(long, value_name = "MODE", value_parser = names::mode)]
    mode: Option<Mode>,
    /// How the linear modes find the range of a channel: min-max or least-squares.
    #[arg(long, default_value_t)]
    range: LinearRange,
    /// Quantize again what is stored in 8 bits or fewer.
    #[arg(long)]
    requantize: bool,
    /// Do not multiply batchnorm, scale and bias layers into the layer before them first.
    #[arg(long)]
    no_fold: bool,
    /// Make the mean image that is subtracted from an image the weight of a bias layer first.
    #[arg(long)]
    mean_image_as_bias: bool,
    /// How biases and other vectors may be stored: float16, as-weights (as any weight) or keep; float16 unless given.
    #[arg(long)]
    biases: Option<Biases>,
    /// Weigh the errors by what each weight does to the outputs on samples: a folder of images, a .npz, .npy or .jsonl file,
    /// or `synthetic` or `synthetic:N`, which draws N (128 unless given).
    #[arg(long, value_name = "SAMPLES")]
    calibrate: Option<Source>,
    #[command(flatten)]
    selection: Selection,
    /// Write the plan to this file, as JSON, instead of printing it; `-` is standard output.
    #[arg(long, short, value_name = "FILE.json")]
    output: Option<PathBuf>,
    #[command(flatten)]
    running: Running,
}

/// What the plan is to reach.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
struct PlanTarget {
    /// A file of at most this size: bytes, 1.5MB, or 25% of the input.
    #[arg(long, value_name = "SIZE")]
    target_size: Option<Size>,
    /// At most this many bits a value, on average.
    #[arg(long, value_name = "BITS", value_parser = crate::target::bits)]
    target_bits: Option<f64>,
    /// The smallest file with at least this signal-to-quantization-noise ratio.
    #[arg(long, value_name = "DB", value_parser = crate::target::decibels, allow_negative_numbers = true)]
    target_sqnr: Option<f64>,
}

/// What a plan is made from.
#[derive(Debug)]
pub struct Planning<'a> {
    pub target: Target,
    pub mode: Option<Mode>,
    pub range: LinearRange,
    pub selection: &'a Selection,
    pub requantize: bool,
    pub fold: bool,
    pub mean_image_as_bias: bool,
    pub biases: Option<Biases>,
    pub calibration: Option<Calibration>,
}

impl Planning<'_> {
    pub fn plan(&self, model: &Model) -> Result<Plan, Failure> {
        let mut planner = Planner::new(self.target)
            .with_range(self.range)
            .with_requantize(self.requantize)
            .with_fold(self.fold)
            .with_mean_image_as_bias(self.mean_image_as_bias)
            .with_selector(self.selection.selector());
        if let Some(biases) = self.biases {
            planner = planner.with_biases(biases);
        }
        if let Some(calibration) = &self.calibration {
            planner = planner.with_calibration(calibration.clone());
        }
        if let Some(mode) = self.mode {
            planner = planner.with_modes([mode]);
        }
        Ok(planner.plan(model)?)
    }
}

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        let output = self.output.as_deref();
        let samples = self.calibrate.as_ref().and_then(Source::path);
        let read: Vec<&Path> = std::iter::once(&*self.model).chain(samples).collect();
        refuse_same(&read, &[None, output], None)?;
        let output = Output::prepare_optional(output)?;
        self.running.start()?;
        let input = input::open(&self.model)?;
        self.selection.check(&[], input.model)?;
        let PlanTarget { target_size, target_bits, target_sqnr } = self.target;
        let target = Targets { target_size, target_bits, target_sqnr, plan_in: None }.target(input.len);
        let target = target.ok_or_else(|| Failure::Usage("there is no target".to_owned()))?;
        let planning = Planning {
            target,
            mode: self.mode,
            range: self.range,
            selection: &self.selection,
            requantize: self.requantize,
            fold: !self.no_fold,
            mean_image_as_bias: self.mean_image_as_bias,
            biases: self.biases,
            calibration: self.calibrate.as_ref().map(|source| source.calibration(input.model)).transpose()?,
        };
        let plan = planning.plan(input.model)?;
        match output {
            Some(output) => {
                output.write(serde_json::to_string_pretty(&plan)? + "\n")?;
                output.finish()?;
            }
            None if self.running.quiet => {}
            None => output::print(&text(&plan))?,
        }
        Ok(Status::Done)
    }
}

fn text(plan: &Plan) -> String {
    let row = |weight: &PlannedWeight| {
        vec![
            format!("{}/{}", weight.network, weight.layer),
            weight.field.clone(),
            thousands(weight.values),
            thousands(weight.bytes),
            match -10.0 * weight.relative_error.log10() {
                sqnr if sqnr.is_finite() => decibels(sqnr),
                _ => "exact".to_owned(),
            },
            weight.method.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = plan.weights.iter().map(row).collect();
    let columns = [
        ("layer", Align::Left),
        ("weight", Align::Left),
        ("values", Align::Right),
        ("bytes", Align::Right),
        ("error", Align::Right),
        ("method", Align::Left),
    ];
    let (weights, bytes, sqnr) = (plan.weights.len(), thousands(plan.bytes()), decibels(plan.sqnr_db()));
    format!("{}{weights} weights, {bytes} bytes, {sqnr}\n", table(&columns, &rows, terminal_width()))
}

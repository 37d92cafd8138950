//! `coreml-quant search`: the smallest model that is good enough on samples.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use coreml_quant::Mode;
use coreml_quant::evaluate::{Goal, SearchOptions, search};

use crate::failure::{Failure, Status};
use crate::input;
use crate::names;
use crate::output::{self, Output, refuse_same};
use crate::progress::Running;
use crate::samples::{SampleOptions, failed, share};
use crate::table::{percent, thousands};
use crate::target::{self, Size};

/// Looks for the smallest model that keeps a goal on samples, or the best one within a size.
#[derive(Args, Debug)]
pub struct Options {
    /// The model to read.
    input: PathBuf,
    /// The model to write.
    output: PathBuf,
    #[command(flatten)]
    samples: SampleOptions,
    #[command(flatten)]
    goal: GoalOptions,
    /// The modes to choose from; float16, linear and kmeans_lut unless given.
    #[arg(long, value_name = "MODE", value_delimiter = ',', value_parser = names::mode)]
    mode: Vec<Mode>,
    /// Write the plan of the model that was found to this file, for `quantize --plan-in`.
    #[arg(long, value_name = "FILE.json")]
    plan_out: Option<PathBuf>,
    /// Write all models that were tried, with their sizes and figures, to this file as JSON.
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    #[command(flatten)]
    running: Running,
}

/// What is asked for.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
struct GoalOptions {
    /// The original's class is chosen on at least this share of the samples: 99%.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    min_agreement: Option<f64>,
    /// At least this share of the samples with a label is right.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    min_accuracy: Option<f64>,
    /// The signal-to-noise ratio of the worst output, in dB.
    #[arg(long, value_name = "DB", value_parser = target::decibels, allow_negative_numbers = true)]
    min_snr: Option<f64>,
    /// A file of at most this size, with the best outputs.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<Size>,
}

impl GoalOptions {
    fn goal(&self, len: u64) -> Option<Goal> {
        let agreement = self.min_agreement.map(Goal::Agreement);
        let accuracy = agreement.or(self.min_accuracy.map(Goal::Accuracy));
        accuracy.or(self.min_snr.map(Goal::OutputSnr)).or(self.max_size.map(|size| Goal::MaxBytes(size.bytes(len))))
    }
}

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        let inputs: Vec<&Path> = std::iter::once(&*self.input).chain(self.samples.paths()).collect();
        refuse_same(&inputs, &[Some(&self.output), self.plan_out.as_deref(), self.report.as_deref()], None)?;
        let file = Output::prepare(&self.output)?;
        let plan_file = Output::prepare_optional(self.plan_out.as_deref())?;
        let report_file = Output::prepare_optional(self.report.as_deref())?;
        self.running.start()?;
        let input = input::open(&self.input)?;
        let samples = self.samples.of(input.model)?;
        let goal = self.goal.goal(input.len).ok_or_else(|| Failure::Usage("there is no goal".to_owned()))?;
        let found = {
            let bar = self.running.bar();
            let follow = bar.clone();
            let mut options = SearchOptions::new().with_progress(move |progress| {
                follow.at(progress.done, progress.total);
                ControlFlow::Continue(())
            });
            if !self.mode.is_empty() {
                options = options.with_modes(self.mode.iter().copied());
            }
            search(input.model, &samples, goal, &options).map_err(failed)?
        };
        found.model.save(file.path())?;
        let len = std::fs::metadata(file.path())?.len();
        for (file, text) in [
            (&plan_file, serde_json::to_string_pretty(&found.plan)?),
            (&report_file, serde_json::to_string_pretty(&found.report)?),
        ] {
            file.as_ref().map_or(Ok(()), |file| file.write(text))?;
        }
        let aside = [Some(&file), plan_file.as_ref(), report_file.as_ref()];
        let aside = aside.into_iter().flatten().any(Output::is_standard);
        file.finish()?;
        plan_file.map_or(Ok(()), Output::finish)?;
        report_file.map_or(Ok(()), Output::finish)?;
        if !self.running.quiet {
            let sizes = format!("{} -> {} bytes ({})", thousands(input.len), thousands(len), percent(len, input.len));
            let text = format!("{}\nwrote {}: {sizes}\n", found.report, self.output.display());
            if aside { output::print_aside(&text) } else { output::print(&text)? }
        }
        Ok(Status::Done)
    }
}

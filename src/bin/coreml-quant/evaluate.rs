//! `coreml-quant evaluate`: what quantizing did to a network's outputs.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use coreml_quant::evaluate::{CompareOptions, compare_outputs};

use crate::failure::{Failure, Status};
use crate::input;
use crate::output;
use crate::progress::Running;
use crate::samples::{SampleOptions, failed, share};
use crate::target;

/// Runs two models of one network on samples and compares their outputs.
#[derive(Args, Debug)]
pub struct Options {
    /// The original.
    original: PathBuf,
    /// What was made of it.
    other: PathBuf,
    #[command(flatten)]
    samples: SampleOptions,
    /// Show the layers too, those with the largest error of their own first.
    #[arg(long)]
    per_layer: bool,
    /// Fail with exit code 4 if they choose the same class on fewer of the samples.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    min_agreement: Option<f64>,
    /// Fail with exit code 4 if fewer of the samples with a label are right.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    min_accuracy: Option<f64>,
    /// Fail with exit code 4 if the signal-to-noise ratio of an output is lower, in dB.
    #[arg(long, value_name = "DB", value_parser = target::decibels, allow_negative_numbers = true)]
    min_snr: Option<f64>,
    /// Print JSON.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    #[command(flatten)]
    running: Running,
}

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        self.running.start()?;
        let (original, other) = input::open_two(&self.original, &self.other)?;
        let samples = self.samples.of(original.model)?;
        let report = {
            let bar = self.running.bar();
            let follow = bar.clone();
            let options = CompareOptions::new().with_per_layer(self.per_layer).with_progress(move |progress| {
                follow.at(progress.done, progress.total);
                ControlFlow::Continue(())
            });
            compare_outputs(original.model, other.model, &samples, &options).map_err(failed)?
        };
        if self.json {
            output::print(&serde_json::to_string_pretty(&report)?)?;
        } else if !self.running.quiet {
            output::print(&report.to_string())?;
        }
        let mut broken = Vec::new();
        let shares =
            [("agreement", self.min_agreement, report.agreement()), ("accuracy", self.min_accuracy, report.accuracy())];
        for (what, least, found) in shares {
            match (least, found) {
                (Some(least), Some(found)) if found.share < least => broken.push(format!(
                    "the {what} is {:.2} %, {:.2} % are asked for",
                    100.0 * found.share,
                    100.0 * least
                )),
                (Some(_), None) => {
                    return Err(Failure::Usage(format!("there is no {what}: the model has no classes, or no labels")));
                }
                _ => {}
            }
        }
        let snr = report.snr_db();
        if let Some(least) = self.min_snr.filter(|least| snr.is_nan() || snr < *least) {
            broken.push(format!("the outputs' signal-to-noise ratio is {snr:.1} dB, {least} dB are asked for"));
        }
        if broken.is_empty() { Ok(Status::Done) } else { Err(Failure::Broken(broken.join("; "))) }
    }
}

//! `coreml-quant compare`: two models of one network, weight by weight.

use std::path::PathBuf;

use clap::Args;
use coreml_quant::compare;

use crate::failure::{Failure, Status};
use crate::input;
use crate::output;
use crate::progress::Running;
use crate::report::{self, Shown};
use crate::table::decibels;
use crate::target;

/// Compares the weights of two models of the same network, in whatever forms they are stored.
#[derive(Args, Debug)]
pub struct Options {
    /// The original; `-` is standard input.
    original: PathBuf,
    /// What was made of it.
    other: PathBuf,
    /// Fail with exit code 4 if the ratio of all weights to their error is below this, in dB.
    #[arg(long, value_name = "DB", value_parser = target::decibels, allow_negative_numbers = true)]
    min_sqnr: Option<f64>,
    /// Print the comparison as JSON.
    #[arg(long, conflicts_with_all = ["quiet", "full"])]
    json: bool,
    /// Show every weight, however many there are.
    #[arg(long, conflicts_with = "quiet")]
    full: bool,
    #[command(flatten)]
    running: Running,
}

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        self.running.start()?;
        let (original, other) = input::open_two(&self.original, &self.other)?;
        let report = compare(original.model, other.model)?;
        let folded = !report.folds.folds.is_empty();
        if self.json {
            let mut value = report::json(&report);
            value["folded"] = folded.into();
            value["original"] = report::json_of_file(&self.original, original.len);
            value["other"] = report::json_of_file(&self.other, other.len);
            output::print(&serde_json::to_string_pretty(&value)?)?;
        } else if !self.running.quiet {
            let text = report::text(&report, Shown { full: self.full, explain: false });
            let worst = if text.contains("worst layers") { String::new() } else { report::worst(&report) };
            let note = if folded { "one of the models was folded, and the other is folded for this\n" } else { "" };
            output::print(&format!("{note}{text}{worst}"))?;
        }
        match (self.min_sqnr, report.sqnr_db()) {
            (Some(least), Some(sqnr)) if sqnr < least || sqnr.is_nan() => Err(Failure::Broken(format!(
                "the weights are {} from the original's, {least} dB are asked for",
                decibels(sqnr)
            ))),
            _ => Ok(Status::Done),
        }
    }
}

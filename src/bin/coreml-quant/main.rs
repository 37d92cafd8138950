//! `coreml-quant`: makes Core ML models small, from a shell.
//!
//! One file a subcommand, thin over the library. What they share: which files are read ([`input`]) and written
//! ([`output`], [`writing`]), which weights ([`selection`], [`target`]), samples ([`samples`]), how a job runs ([`progress`], [`interrupt`]), what
//! is said ([`report`], [`table`]) and how it ends ([`failure`]).

mod check;
mod compare;
mod dequantize;
mod evaluate;
mod failure;
mod fold;
mod input;
mod inspect;
mod interrupt;
mod names;
mod output;
mod plan;
mod plot;
mod predict;
mod progress;
mod quantize;
mod report;
mod samples;
mod search;
mod selection;
mod shell;
mod sweep;
mod table;
mod target;
mod writing;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::{EXIT_CODES, Failure, Status};

/// Makes Core ML models small: stores the weights of neural networks (.mlmodel) in 16, 8 or down to 1 bit.
#[derive(Parser, Debug)]
#[command(name = "coreml-quant", version, after_help = EXIT_CODES)]
struct Tool {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Quantize(Box<quantize::Options>),
    Inspect(inspect::Options),
    Compare(compare::Options),
    Check(check::Options),
    Fold(Box<fold::Options>),
    Dequantize(Box<dequantize::Options>),
    Plan(Box<plan::Options>),
    Sweep(Box<sweep::Options>),
    Plot(plot::Options),
    Predict(predict::Options),
    Evaluate(evaluate::Options),
    Search(Box<search::Options>),
    Completions(shell::Completions),
    Man(shell::Man),
}

impl Command {
    fn run(&self) -> Result<Status, Failure> {
        match self {
            Self::Quantize(options) => options.run(),
            Self::Inspect(options) => options.run(),
            Self::Compare(options) => options.run(),
            Self::Check(options) => options.run(),
            Self::Fold(options) => options.run(),
            Self::Dequantize(options) => options.run(),
            Self::Plan(options) => options.run(),
            Self::Sweep(options) => options.run(),
            Self::Plot(options) => options.run(),
            Self::Predict(options) => options.run(),
            Self::Evaluate(options) => options.run(),
            Self::Search(options) => options.run(),
            Self::Completions(options) => options.run(Tool::command()),
            Self::Man(options) => options.run(Tool::command()),
        }
    }
}

fn main() -> ExitCode {
    let tool = Tool::parse();
    interrupt::install();
    match tool.command.run() {
        Ok(status) => status.into(),
        Err(failure) => failure.report(),
    }
}

//! `coreml-quant dequantize`: back to float32.

use std::path::PathBuf;

use clap::Args;
use coreml_quant::{QuantConfig, SaveOptions, quantize_to_file};

use crate::failure::{Failure, Status};
use crate::selection::Selection;
use crate::writing::{Done, Writing};

/// Stores weights of any form as float32 again, with the values that Core ML computes with.
#[derive(Args, Debug)]
pub struct Options {
    /// The model to read; `-` is standard input.
    input: PathBuf,
    /// The model to write; `-` is standard output.
    output: PathBuf,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    writing: Writing,
}

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        let files = self.writing.start(&self.input, &self.output, &[], &[])?;
        self.selection.check(&[], files.model)?;
        let config = QuantConfig::dequantize().with_selector(self.selection.selector());
        let config = config.with_measure(self.writing.seen());
        let report = {
            let bar = self.writing.running.bar();
            quantize_to_file(files.model, &bar.follow(config), files.output_path(), &SaveOptions::default())?
        };
        files.finish(&self.writing, false, Done::Quantized(&report), &[])
    }
}

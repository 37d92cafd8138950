//! `coreml-quant fold`: only multiplies batchnorm, scale and bias layers into the layer before them.

use std::path::PathBuf;

use clap::Args;

use crate::failure::{Failure, Status};
use crate::writing::{Done, Writing};

/// Multiplies batchnorm, scale and bias layers into the layer before them, and changes nothing else.
#[derive(Args, Debug)]
pub struct Options {
    /// The model to read; `-` is standard input.
    input: PathBuf,
    /// The model to write; `-` is standard output.
    output: PathBuf,
    /// Say why layers were not folded.
    #[arg(long, conflicts_with = "quiet")]
    explain: bool,
    #[command(flatten)]
    writing: Writing,
}

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        let files = self.writing.start(&self.input, &self.output, &[], &[])?;
        let folded = coreml_quant::fold(files.model)?;
        folded.model.save(files.output_path())?;
        files.finish(&self.writing, self.explain, Done::Folded(&folded.report), &[])
    }
}

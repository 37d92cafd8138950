//! `coreml-quant completions` and `coreml-quant man`: what comes beside a tool.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::failure::{Failure, Status};
use crate::output;

/// Prints completions for a shell.
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub fn run(&self, mut tool: Command) -> Result<Status, Failure> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut tool, "coreml-quant", &mut text);
        output::print(&String::from_utf8_lossy(&text))?;
        Ok(Status::Done)
    }
}

/// Prints the manual page, or writes one for each subcommand into a folder.
#[derive(Args, Debug)]
pub struct Man {
    /// The folder for `coreml-quant.1`, `coreml-quant-quantize.1` and the others.
    folder: Option<PathBuf>,
}

impl Man {
    pub fn run(&self, tool: Command) -> Result<Status, Failure> {
        match &self.folder {
            Some(folder) => {
                clap_mangen::generate_to(tool, folder).map_err(|error| Failure::of_file(folder, &error))?;
            }
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(tool).render(&mut page)?;
                output::print(&String::from_utf8_lossy(&page))?;
            }
        }
        Ok(Status::Done)
    }
}

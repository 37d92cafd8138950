//! `coreml-quant check`: Core ML's rules on weights, and a size budget.

use std::path::PathBuf;

use clap::Args;
use coreml_quant::check;
use serde_json::json;

use crate::failure::{Failure, Status};
use crate::input;
use crate::output;
use crate::table::thousands;
use crate::target::Size;

/// Holds models against Core ML's rules on weights, and against a size; exit code 4 if one is broken.
#[derive(Args, Debug)]
pub struct Options {
    /// The models to read; `-` is standard input.
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// The most that a file may have: bytes, 400KB, 2MB.
    #[arg(long, value_name = "SIZE", value_parser = absolute)]
    max_size: Option<f64>,
    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,
}

fn absolute(text: &str) -> Result<f64, String> {
    match text.parse()? {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Share(_) => Err("a share has nothing to be a share of here".to_owned()),
    }
}

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        let (mut text, mut rows, mut broken) = (String::new(), Vec::new(), 0);
        for path in &self.models {
            let input = input::open(path)?;
            let mut findings: Vec<String> = check(input.model).iter().map(ToString::to_string).collect();
            if let Some(most) = self.max_size.filter(|&most| input.len as f64 > most) {
                let (len, most) = (thousands(input.len), thousands(most as u64));
                findings.push(format!("the file has {len} bytes, at most {most} are allowed"));
            }
            broken += usize::from(!findings.is_empty());
            for finding in &findings {
                text += &format!("{}: {finding}\n", path.display());
            }
            if findings.is_empty() {
                text += &format!("{}: {} bytes, nothing found\n", path.display(), thousands(input.len));
            }
            rows.push(json!({ "path": path.to_string_lossy(), "bytes": input.len, "findings": findings }));
        }
        output::print(&if self.json { serde_json::to_string_pretty(&rows)? } else { text })?;
        match broken {
            0 => Ok(Status::Done),
            _ => Err(Failure::Broken(format!("{broken} of {} models break a rule or the limit", self.models.len()))),
        }
    }
}

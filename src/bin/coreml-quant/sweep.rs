//! `coreml-quant sweep`: what each mode and number of bits takes and costs.

use std::path::PathBuf;

use clap::Args;
use coreml_quant::{LinearRange, Mode, Model, QuantConfig, quantize_weights};
use serde_json::json;

use crate::failure::{Failure, Status};
use crate::input;
use crate::names;
use crate::output::{self, Output, refuse_same};
use crate::progress::Running;
use crate::quantize::of_mode;
use crate::selection::Selection;
use crate::table::{Align, decibels, percent, table, terminal_width, thousands};

/// Quantizes a model in every mode with every number of bits, and lists sizes and errors; writes no model.
#[derive(Args, Debug)]
pub struct Options {
    /// The model to read; `-` is standard input.
    model: PathBuf,
    /// Only these modes.
    #[arg(long, value_name = "MODE", value_delimiter = ',', value_parser = names::mode)]
    mode: Vec<Mode>,
    /// Only these numbers of bits; 16 is float16.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=16))]
    nbits: Vec<u32>,
    /// How the linear modes find the range of a channel: min-max or least-squares.
    #[arg(long, default_value_t)]
    range: LinearRange,
    /// Quantize again what is stored in 8 bits or fewer.
    #[arg(long)]
    requantize: bool,
    /// Do not multiply batchnorm, scale and bias layers into the layer before them first.
    #[arg(long)]
    no_fold: bool,
    #[command(flatten)]
    selection: Selection,
    /// Print comma-separated values.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write what is printed to this file instead.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    running: Running,
}

/// A mode with its bits, and what it came to.
struct Row {
    mode: Mode,
    nbits: u32,
    result: Result<(u64, f64, f64), String>,
}

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        let output = self.output.as_deref();
        refuse_same(&[&self.model], &[None, output], None)?;
        let output = Output::prepare_optional(output)?;
        let combinations = self.combinations()?;
        self.running.start()?;
        let input = input::open(&self.model)?;
        self.selection.check(&[], input.model)?;
        let bar = self.running.bar();
        let mut rows = Vec::new();
        for (index, &(mode, nbits)) in combinations.iter().enumerate() {
            bar.at(index, combinations.len());
            rows.push(Row { mode, nbits, result: self.quantized(input.model, mode, nbits) });
        }
        drop(bar);
        if let Some(Err(error)) =
            rows.iter().all(|row| row.result.is_err()).then(|| rows.first().map(|row| &row.result)).flatten()
        {
            return Err(Failure::Job(error.clone()));
        }
        let text = if self.json {
            json_of(&self.model.to_string_lossy(), input.len, &rows)?
        } else if self.csv {
            csv_of(input.len, &rows)
        } else {
            text_of(input.len, &rows)
        };
        match output {
            Some(output) => {
                output.write(text)?;
                output.finish()?;
            }
            None => output::print(&text)?,
        }
        Ok(Status::Done)
    }

    fn combinations(&self) -> Result<Vec<(Mode, u32)>, Failure> {
        let default = [Mode::Float16, Mode::Linear, Mode::LinearSymmetric, Mode::LinearLut, Mode::KmeansLut];
        let modes = if self.mode.is_empty() { &default } else { &*self.mode };
        let mut all = Vec::new();
        for &mode in modes {
            match mode {
                Mode::Float16 => all.push((mode, 16)),
                Mode::Dequantize => all.push((mode, 32)),
                Mode::Int8Matmul => all.push((mode, 8)),
                _ => all.extend(mode.nbits().rev().map(|nbits| (mode, nbits))),
            }
        }
        all.retain(|(_, nbits)| self.nbits.is_empty() || self.nbits.contains(nbits));
        if all.is_empty() {
            return Err(Failure::Usage("none of the modes has these numbers of bits".to_owned()));
        }
        Ok(all)
    }

    /// The file's bytes, the ratio of weights to error in dB, and the largest error.
    fn quantized(&self, model: &Model, mode: Mode, nbits: u32) -> Result<(u64, f64, f64), String> {
        let config = match of_mode(mode, Some(nbits), self.range) {
            Some(config) => Ok(config),
            None => QuantConfig::from_mode(mode, (!mode.nbits().is_empty()).then_some(nbits)),
        };
        let mut config = config.map_err(|error| error.to_string())?.with_selector(self.selection.selector());
        if self.no_fold {
            config = config.with_fold(false);
        }
        if self.requantize {
            config = config.with_requantize(true);
        }
        let quantized = quantize_weights(model, &config).map_err(|error| error.to_string())?;
        let len = prost::Message::encoded_len(quantized.model.proto()) as u64;
        let report = &quantized.report;
        let largest = report.weights.iter().filter_map(|weight| weight.distortion).map(|d| d.max_error());
        Ok((len, report.sqnr_db().unwrap_or(f64::INFINITY), largest.fold(0.0, f64::max)))
    }
}

fn text_of(before: u64, rows: &[Row]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut cells = vec![row.mode.to_string(), row.nbits.to_string()];
            match &row.result {
                Ok((len, sqnr, largest)) => {
                    cells.extend([thousands(*len), percent(*len, before), decibels(*sqnr), format!("{largest:.3e}")]);
                }
                Err(error) => cells.push(format!("refused: {error}")),
            }
            cells
        })
        .collect();
    let columns = [
        ("mode", Align::Left),
        ("bits", Align::Right),
        ("bytes", Align::Right),
        ("of the input", Align::Right),
        ("error", Align::Right),
        ("largest", Align::Right),
    ];
    table(&columns, &rows, terminal_width())
}

fn csv_of(before: u64, rows: &[Row]) -> String {
    let mut text = "mode,bits,bytes,share,sqnr_db,max_error,refused\n".to_owned();
    for Row { mode, nbits, result } in rows {
        text += &match result {
            Ok((len, sqnr, largest)) => {
                format!("{mode},{nbits},{len},{:.6},{sqnr:.4},{largest:e},\n", *len as f64 / before as f64)
            }
            Err(error) => format!("{mode},{nbits},,,,,\"{}\"\n", error.replace('"', "\"\"")),
        };
    }
    text
}

fn json_of(path: &str, before: u64, rows: &[Row]) -> Result<String, Failure> {
    let rows: Vec<_> = rows
        .iter()
        .map(|Row { mode, nbits, result }| match result {
            Ok((len, sqnr, largest)) => json!({
                "mode": mode.name(), "bits": nbits, "bytes": len, "share": *len as f64 / before as f64,
                "sqnr_db": sqnr, "max_error": largest, "refused": null,
            }),
            Err(error) => json!({
                "mode": mode.name(), "bits": nbits, "bytes": null, "share": null,
                "sqnr_db": null, "max_error": null, "refused": error,
            }),
        })
        .collect();
    Ok(serde_json::to_string_pretty(&json!({ "input": { "path": path, "bytes": before }, "rows": rows }))? + "\n")
}

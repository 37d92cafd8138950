//! What all commands share that write a model: the names of the files, what the model says of itself, and the last look
//! at what came out.

use std::path::{Path, PathBuf};

use clap::Args;
use coreml_quant::{FoldReport, Metadata, Model, Report, check};
use serde_json::{Value, json};

use crate::failure::{Failure, Status};
use crate::input::{self, Input};
use crate::output::{self, Output, is_standard, refuse_same};
use crate::progress::Running;
use crate::report::{self, Shown};
use crate::table::{decibels, percent, thousands};

/// How a model is written, and what is said of it.
#[derive(Args, Clone, Debug)]
pub struct Writing {
    /// Let OUTPUT be the same file as INPUT, which is then replaced.
    #[arg(long)]
    pub in_place: bool,
    /// What the model says of itself: description, author, license, version, or keys of your own. An empty value removes it.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Write the model even if it breaks a rule of Core ML's.
    #[arg(long)]
    pub no_check: bool,
    /// Write the report to this file, as JSON.
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Print the report as JSON instead of as a table.
    #[arg(long, conflicts_with_all = ["quiet", "full"])]
    pub json: bool,
    /// Show every weight, however many there are.
    #[arg(long, conflicts_with = "quiet")]
    pub full: bool,
    #[command(flatten)]
    pub running: Running,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("\"{text}\" is not of the form KEY=VALUE")),
    }
}

/// A job's files, before anything is done.
#[derive(Debug)]
pub struct Job {
    pub input: Input,
    /// The model to work on: the input, with what it says of itself changed.
    pub model: &'static Model,
    input_path: PathBuf,
    output: Output,
    report: Option<Output>,
    extra: Vec<Output>,
}

impl Writing {
    /// Refuses outputs that would hurt an input or each other, makes sure that all can be written, and reads the model.
    ///
    /// `extra` are outputs besides the model and the report, and `read` are inputs besides the model.
    pub fn start(&self, input: &Path, output: &Path, read: &[&Path], extra: &[&Path]) -> Result<Job, Failure> {
        let inputs: Vec<&Path> = std::iter::once(input).chain(read.iter().copied()).collect();
        let report = self.report.as_deref();
        let outputs: Vec<Option<&Path>> =
            [Some(output), report].into_iter().chain(extra.iter().copied().map(Some)).collect();
        refuse_same(&inputs, &outputs, self.in_place.then_some(input))?;
        if self.json && is_standard(output) {
            return Err(Failure::Usage("--json and the model cannot both go to standard output".to_owned()));
        }
        let job_output = Output::prepare(output)?;
        let report = Output::prepare_optional(report)?;
        let extra = extra.iter().map(|path| Output::prepare(path)).collect::<Result<_, _>>()?;
        self.running.start()?;
        let opened = input::open(input)?;
        let model = self.described(opened.model);
        Ok(Job { input: opened, model, input_path: input.to_owned(), output: job_output, report, extra })
    }

    /// The model with what is to be set.
    pub fn described(&self, model: &'static Model) -> &'static Model {
        if self.set.is_empty() {
            return model;
        }
        let mut metadata = model.metadata();
        for (key, value) in &self.set {
            set(&mut metadata, key, value);
        }
        let mut model = model.clone();
        model.set_metadata(metadata);
        Box::leak(Box::new(model))
    }

    /// Whether the errors of weights are seen by anybody.
    pub fn seen(&self) -> bool {
        !self.running.quiet || self.report.is_some()
    }

    fn shown(&self, explain: bool) -> Shown {
        Shown { full: self.full, explain }
    }
}

fn set(metadata: &mut Metadata, key: &str, value: &str) {
    let field = match key {
        "description" => &mut metadata.description,
        "author" => &mut metadata.author,
        "license" | "licence" => &mut metadata.license,
        "version" => &mut metadata.version,
        key if value.is_empty() => {
            metadata.user_defined.remove(key);
            return;
        }
        key => metadata.user_defined.entry(key.to_owned()).or_default(),
    };
    value.clone_into(field);
}

/// What was done to a model.
#[derive(Clone, Copy, Debug)]
pub enum Done<'a> {
    /// Its weights were stored otherwise.
    Quantized(&'a Report),
    /// Its layers were folded.
    Folded(&'a FoldReport),
}

impl Done<'_> {
    pub fn text(&self, shown: Shown) -> String {
        match self {
            Self::Quantized(report) => report::text(report, shown),
            Self::Folded(report) => report::folds(report, shown),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Quantized(report) => report::json(report),
            Self::Folded(report) => json!({ "fold": report::json_of_folds(report) }),
        }
    }

    /// The error of all weights, for the last line.
    fn error(&self) -> String {
        match self {
            Self::Quantized(report) => {
                report.sqnr_db().map_or_else(String::new, |sqnr| format!(", {}", decibels(sqnr)))
            }
            Self::Folded(_) => String::new(),
        }
    }

    /// Why the model is the same as before; `None` if it is not.
    fn unchanged(&self) -> Option<String> {
        match self {
            Self::Quantized(report) => {
                let same = report.totals().converted == 0 && report.folds.folds.is_empty();
                same.then(|| report::reasons(report))
            }
            Self::Folded(report) => report.folds.is_empty().then(|| match report.not_folded.len() {
                0 => "no layer follows one it could be folded into".to_owned(),
                count => format!("{count} layers cannot be folded; --explain says why"),
            }),
        }
    }
}

/// The report for programs, with the sizes of the files.
pub fn json_of(input: &Path, input_len: u64, output: Option<&Path>, output_len: u64, done: Done<'_>) -> Value {
    let mut value = done.json();
    let input = report::json_of_file(input, input_len);
    let output = match output {
        Some(path) => report::json_of_file(path, output_len),
        None => json!({ "path": null, "bytes": output_len }),
    };
    if let Value::Object(fields) = &mut value {
        fields.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        fields.insert("input".to_owned(), input);
        fields.insert("output".to_owned(), output);
    }
    value
}

/// `154,554 -> 20,393 bytes (13.2 %), 19.9 dB`.
pub fn sizes(before: u64, after: u64, done: Done<'_>) -> String {
    format!("{} -> {} bytes ({}){}", thousands(before), thousands(after), percent(after, before), done.error())
}

impl Job {
    /// Where the model has to be written.
    pub fn output_path(&self) -> &Path {
        self.output.path()
    }

    /// Puts everything that was written into its place and says what was done.
    ///
    /// `extra` are the contents of the extra outputs.
    pub fn finish(self, writing: &Writing, explain: bool, done: Done<'_>, extra: &[String]) -> Result<Status, Failure> {
        let len = output::len_of(self.output.path())?;
        if !writing.no_check {
            let findings = check(input::open(self.output.path())?.model);
            if !findings.is_empty() {
                let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
                let whose = if check(self.input.model).is_empty() { "" } else { ", as the input does" };
                return Err(Failure::Broken(format!(
                    "the result would break rules of Core ML's{whose}, and was not written (--no-check writes it):\n  {}",
                    lines.join("\n  ")
                )));
            }
        }
        let json = json_of(&self.input_path, self.input.len, Some(self.output.given()), len, done);
        let json = serde_json::to_string_pretty(&json)?;
        if let Some(report) = &self.report {
            report.write(&json)?;
        }
        for (file, content) in self.extra.iter().zip(extra) {
            file.write(content)?;
        }
        let line = format!("wrote {}: {}", self.output.given().display(), sizes(self.input.len, len, done));
        let aside = self.output.is_standard() || self.report.as_ref().is_some_and(Output::is_standard);
        let aside = aside || self.extra.iter().any(Output::is_standard);
        self.output.finish()?;
        self.report.map_or(Ok(()), Output::finish)?;
        self.extra.into_iter().try_for_each(Output::finish)?;
        if writing.json {
            output::print(&json)?;
        } else if !writing.running.quiet {
            let text = format!("{}{line}\n", done.text(writing.shown(explain)));
            if aside { output::print_aside(&text) } else { output::print(&text)? }
        }
        Ok(match done.unchanged() {
            Some(why) if writing.set.is_empty() => {
                output::print_aside(&format!("warning: nothing changed ({why})"));
                Status::Unchanged
            }
            _ => Status::Done,
        })
    }
}

//! `coreml-quant predict`: runs a model on inputs from files.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use coreml_quant::predict::{ColorOrder, FeatureInfo, FeatureKind, Features, Image, Precision, Predictor, Value};
use ndarray::ArrayD;
use serde_json::json;

use crate::failure::{Failure, Status};
use crate::input;
use crate::names;
use crate::output::{self, Output, refuse_same};
use crate::progress::Running;
use crate::report::shape;

/// Runs a model, with what Core ML's CPU computes, and prints its outputs.
#[derive(Args, Debug)]
pub struct Options {
    /// The model to read.
    model: PathBuf,
    /// An input: a .npy file for an array, an image file, a number, or a text. One for each input of the model.
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = name_value)]
    input: Vec<(String, String)>,
    /// Write the arrays among the outputs into this folder, as NAME.npy.
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Classes that are shown of each dictionary, the most probable first.
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Round what layers compute to float16, as the Neural Engine does.
    #[arg(long)]
    half: bool,
    /// Print JSON, arrays in full.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    #[command(flatten)]
    running: Running,
}

fn name_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("\"{text}\" is not of the form NAME=VALUE")),
    }
}

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        self.running.start()?;
        let model = input::open(&self.model)?.model;
        let fail = |error: coreml_quant::predict::PredictError| Failure::Job(error.to_string());
        let mut predictor = Predictor::new(model).map_err(fail)?;
        if self.half {
            predictor = predictor.with_precision(Precision::Half);
        }
        let features = self.features(predictor.inputs())?;
        let files = self.files(predictor.outputs())?;
        let outputs = predictor.predict(&features).map_err(fail)?;
        for (name, file) in files {
            let Some(array) = outputs.array(&name) else { continue };
            ndarray_npy::write_npy(file.path(), &array).map_err(|error| Failure::of_file(file.given(), &error))?;
            file.finish()?;
        }
        if self.json {
            let values: BTreeMap<&str, serde_json::Value> =
                outputs.iter().map(|(name, value)| (name, json_of(value))).collect();
            output::print(&serde_json::to_string_pretty(&values)?)?;
        } else if !self.running.quiet {
            let mut text = String::new();
            for (name, value) in outputs.iter() {
                let _ = writeln!(text, "{name}: {}", text_of(value, self.top));
            }
            for note in predictor.notes() {
                let _ = writeln!(text, "uncertain: {note}");
            }
            output::print(&text)?;
        }
        Ok(Status::Done)
    }

    /// The inputs, read as the model describes them.
    fn features(&self, inputs: &[FeatureInfo]) -> Result<Features, Failure> {
        let mut features = Features::new();
        for (name, text) in &self.input {
            let Some(info) = inputs.iter().find(|info| info.name == *name) else {
                let known: Vec<&str> = inputs.iter().map(|info| info.name.as_str()).collect();
                let hint = names::suggestion(name, &known);
                let known = known.join(", ");
                return Err(Failure::Usage(format!("the model has no input \"{name}\"{hint}; its inputs are {known}")));
            };
            features.insert(name, value_of(info, text)?);
        }
        let missing = inputs.iter().find(|info| !info.optional && features.get(&info.name).is_none());
        match missing {
            Some(info) => Err(Failure::Usage(format!("--input {}=... is missing: {}", info.name, info.kind))),
            None => Ok(features),
        }
    }

    /// The files for the arrays.
    fn files(&self, outputs: &[FeatureInfo]) -> Result<Vec<(String, Output)>, Failure> {
        let Some(folder) = &self.output else { return Ok(Vec::new()) };
        let arrays = outputs.iter().filter(|info| matches!(info.kind, FeatureKind::Array { .. }));
        let paths: Vec<(String, PathBuf)> = arrays
            .map(|info| (info.name.clone(), folder.join(format!("{}.npy", info.name.replace(['/', '\\'], "_")))))
            .collect();
        let inputs: Vec<&Path> =
            std::iter::once(&*self.model).chain(self.input.iter().map(|(_, text)| Path::new(text))).collect();
        let wanted: Vec<Option<&Path>> =
            std::iter::once(None).chain(paths.iter().map(|(_, path)| Some(&**path))).collect();
        refuse_same(&inputs, &wanted, None)?;
        paths.into_iter().map(|(name, path)| Ok((name, Output::prepare(&path)?))).collect()
    }
}

/// An input, read as it is described.
fn value_of(info: &FeatureInfo, text: &str) -> Result<Value, Failure> {
    let path = Path::new(text);
    let refused = |what: &str| Failure::Usage(format!("--input {}: \"{text}\" is no {what}", info.name));
    Ok(match &info.kind {
        FeatureKind::Array { .. } => read_array(path)?.into(),
        FeatureKind::Image { width, height, order, .. } => {
            let image = Image::open(path).map_err(|error| Failure::Job(error.to_string()))?;
            let image = if *order == ColorOrder::Gray { image.to_gray() } else { image };
            image.resized(*width, *height).into()
        }
        FeatureKind::Int64 => text.parse::<i64>().map_err(|_| refused("whole number"))?.into(),
        FeatureKind::Double => text.parse::<f64>().map_err(|_| refused("number"))?.into(),
        FeatureKind::String => text.into(),
        kind => return Err(Failure::Usage(format!("--input {}: {kind} cannot be given here", info.name))),
    })
}

/// An array of any numbers, as float32.
fn read_array(path: &Path) -> Result<ArrayD<f32>, Failure> {
    let fail = |error: &dyn std::fmt::Display| Failure::of_file(path, error);
    let bytes = std::fs::read(path).map_err(|error| fail(&error))?;
    macro_rules! first_of {
        ($($element:ty),+) => {$(
            if let Ok(array) = <ArrayD<$element> as ndarray_npy::ReadNpyExt>::read_npy(&*bytes) {
                return Ok(array.mapv(|value| value as f32));
            }
        )+};
    }
    first_of!(f64, i64, i32, i16, i8, u8, u16);
    ndarray_npy::ReadNpyExt::read_npy(&*bytes).map_err(|error: ndarray_npy::ReadNpyError| fail(&error))
}

fn text_of(value: &Value, top: usize) -> String {
    /// Values of an array that are shown.
    const FIRST: usize = 8;
    match value {
        Value::Array(array) => {
            let first: Vec<String> = array.iter().take(FIRST).map(ToString::to_string).collect();
            let more = if array.len() > FIRST { ", ..." } else { "" };
            format!("array {}: {}{more}", shape(array.shape()), first.join(", "))
        }
        Value::Image(image) => format!("image {} x {}", image.width(), image.height()),
        Value::String(text) => text.clone(),
        Value::Int64(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::StringDictionary(entries) => best(entries.iter().map(|(name, value)| (name.clone(), *value)), top),
        Value::Int64Dictionary(entries) => best(entries.iter().map(|(name, value)| (name.to_string(), *value)), top),
        _ => "something that cannot be shown".to_owned(),
    }
}

/// The largest entries, the first of equal ones first.
fn best(entries: impl Iterator<Item = (String, f64)>, top: usize) -> String {
    let mut entries: Vec<(String, f64)> = entries.collect();
    entries.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shown: Vec<String> = entries.iter().take(top).map(|(name, value)| format!("{name} {value:.4}")).collect();
    shown.join(", ")
}

fn json_of(value: &Value) -> serde_json::Value {
    match value {
        Value::Array(array) => json!({ "shape": array.shape(), "values": array.iter().collect::<Vec<_>>() }),
        Value::Image(image) => {
            json!({ "width": image.width(), "height": image.height(), "pixels": image.pixels() })
        }
        Value::String(text) => json!(text),
        Value::Int64(number) => json!(number),
        Value::Double(number) => json!(number),
        Value::StringDictionary(entries) => json!(entries),
        Value::Int64Dictionary(entries) => json!(entries),
        _ => serde_json::Value::Null,
    }
}

//! Lines of JSON.

use std::fs;
use std::path::Path;

use ndarray::ArrayD;
use serde_json::Value as Json;

use super::{EvaluateError, Sample, Source, described};
use crate::predict::{FeatureInfo, FeatureKind, Features, Value};

/// The deepest that arrays may be nested: no blob has more axes.
const MAX_AXES: usize = 5;

pub(super) struct Lines {
    path: String,
    inputs: Vec<FeatureInfo>,
    /// The lines that are not empty, and their numbers from 1.
    lines: Vec<(usize, String)>,
}

impl Lines {
    pub(super) fn open(inputs: &[FeatureInfo], path: &Path) -> Result<Self, EvaluateError> {
        let text = fs::read_to_string(path).map_err(|cause| EvaluateError::Io { path: path.to_owned(), cause })?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let lines: Vec<_> = lines.map(|(index, line)| (index + 1, line.to_owned())).collect();
        if lines.is_empty() {
            return Err(EvaluateError::NoSamples { place: Some(path.display().to_string()) });
        }
        Ok(Self { path: path.display().to_string(), inputs: inputs.to_vec(), lines })
    }

    fn sample(&self, number: usize, line: &str) -> Result<Sample, String> {
        let object: serde_json::Map<String, Json> = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let mut sample = Sample::new(format!("line {number}"), Features::new());
        for (name, json) in object {
            match self.inputs.iter().find(|input| input.name == name) {
                Some(input) => sample
                    .features
                    .insert(name.clone(), value(input, json).map_err(|what| format!("\"{name}\": {what}"))?),
                None if name == "label" => sample.label = Some(text(&json).ok_or("\"label\" is no string or number")?),
                None if name == "name" => sample.name = text(&json).ok_or("\"name\" is no string or number")?,
                None => return Err(format!("\"{name}\" is no input; the inputs are {}", described(&self.inputs))),
            }
        }
        Ok(sample)
    }
}

fn text(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn value(input: &FeatureInfo, json: Json) -> Result<Value, String> {
    let strings = matches!(input.kind, FeatureKind::Dictionary { strings: true });
    Ok(match json {
        Json::String(text) => Value::String(text),
        Json::Number(number) => match (&input.kind, number.as_i64()) {
            (FeatureKind::Int64, Some(number)) => Value::Int64(number),
            _ => Value::Double(number.as_f64().ok_or("a number that is too large")?),
        },
        Json::Array(_) => {
            let (mut shape, mut values) = (Vec::new(), Vec::new());
            flatten(&json, 0, &mut shape, &mut values)?;
            ArrayD::from_shape_vec(shape, values).map_err(|error| error.to_string())?.into()
        }
        Json::Object(entries) if strings => {
            let entries = entries.into_iter().map(|(key, value)| Some((key, value.as_f64()?)));
            Value::StringDictionary(entries.collect::<Option<_>>().ok_or("an object with something else than numbers")?)
        }
        Json::Object(entries) => {
            let entries = entries.into_iter().map(|(key, value)| Some((key.parse().ok()?, value.as_f64()?)));
            let what = "an object with something else than numbers by whole numbers";
            Value::Int64Dictionary(entries.collect::<Option<_>>().ok_or(what)?)
        }
        Json::Null | Json::Bool(_) => return Err(format!("{json}, {} expected", input.kind)),
    })
}

/// The values of nested arrays, which must have the same length at each depth.
fn flatten(json: &Json, depth: usize, shape: &mut Vec<usize>, values: &mut Vec<f32>) -> Result<(), String> {
    match json {
        Json::Array(items) if depth < MAX_AXES && (depth < shape.len() || values.is_empty()) => {
            if depth == shape.len() {
                shape.push(items.len());
            }
            if items.len() != shape[depth] {
                return Err(format!("an array of {} items beside one of {}", items.len(), shape[depth]));
            }
            items.iter().try_for_each(|item| flatten(item, depth + 1, shape, values))
        }
        Json::Number(number) if depth == shape.len() => {
            values.push(number.as_f64().ok_or("a number that is too large")? as f32);
            Ok(())
        }
        _ => Err("arrays must hold numbers, nested alike and at most 5 deep".to_owned()),
    }
}

impl Source for Lines {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn get(&self, index: usize) -> Result<Sample, EvaluateError> {
        let (number, line) = &self.lines[index];
        let fail = |what| EvaluateError::Samples { place: format!("{}, line {number}", self.path), what };
        self.sample(*number, line).map_err(fail)
    }
}

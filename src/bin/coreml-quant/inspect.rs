//! `coreml-quant inspect`: what a model holds, all of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use coreml_quant::predict::FeatureInfo;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_preprocessing::Preprocessor;
use coreml_quant::proto::{self, FeatureDescription, NeuralNetworkPreprocessing};
use coreml_quant::{ClassLabels, LayerSurvey, Model, Outcome, QuantConfig, check, model_type, preview};
use prost::Message;
use serde_json::{Value, json};

use crate::failure::{Failure, Status};
use crate::input::{self, Input};
use crate::output;
use crate::report::{self, shape};
use crate::table::{Align, percent, table, terminal_width, thousands};

/// Shows what a model holds: inputs and outputs, what it says of itself, its layers and how their weights are stored, what
/// else is in the file, and whether that breaks a rule of Core ML's.
#[derive(Args, Debug)]
pub struct Options {
    /// The model to read; `-` is standard input.
    model: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    /// Show layers without weights too, and every weight however many there are.
    #[arg(long, conflicts_with = "json")]
    full: bool,
}

/// From how many weights on the largest are shown alone.
const MANY: usize = 100;

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        let input = input::open(&self.model)?;
        let layers = input.model.layers();
        let text = if self.json {
            serde_json::to_string_pretty(&self.json_of(&input, &layers))?
        } else {
            self.text_of(&input, &layers)
        };
        output::print(&text)?;
        Ok(Status::Done)
    }

    fn text_of(&self, input: &Input, layers: &[LayerSurvey<'_>]) -> String {
        let model = input.model;
        let proto = model.proto();
        let mut text = format!(
            "{}, specificationVersion {}, {} bytes\n",
            model.kind(),
            proto.specification_version,
            thousands(input.len)
        );
        text += &features(proto);
        text += &said(model);
        for (path, member) in model.members() {
            text += &of_member(&path, member);
        }
        text += &self.weights(input, layers);
        text += &rest(input, layers);
        text += &could(input);
        let findings = check(model);
        if !findings.is_empty() {
            text += "\nCore ML's rules are broken:\n";
        }
        for finding in findings {
            let _ = writeln!(text, "  {finding}");
        }
        text
    }

    fn weights(&self, input: &Input, layers: &[LayerSurvey<'_>]) -> String {
        let mut rows = Vec::new();
        for layer in layers {
            let name = format!("{}/{}", layer.network, layer.layer.name);
            let layer_type = layer.layer_type.unwrap_or("no type");
            let kind =
                if layer.layer.is_updatable { format!("{layer_type}, updatable") } else { layer_type.to_owned() };
            if layer.weights.is_empty() && self.full {
                rows.push((0, vec![name.clone(), kind.clone()]));
            }
            for weight in &layer.weights {
                let mut row = vec![name.clone(), kind.clone(), weight.field.to_string(), shape(&weight.shape)];
                let bytes = match &weight.stored {
                    Ok(form) => form.byte_len(weight.shape.iter().product()) as u64,
                    Err(_) => 0,
                };
                row.extend([thousands(bytes), percent(bytes, input.len)]);
                row.push(weight.stored.as_ref().map_or_else(ToString::to_string, ToString::to_string));
                rows.push((bytes, row));
            }
        }
        if rows.is_empty() {
            return String::new();
        }
        let mut text = "\n".to_owned();
        let count = rows.len();
        if count > MANY && !self.full {
            rows.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
            rows.truncate(MANY / 2);
            let _ = writeln!(text, "The largest {} of {count} weights; --full shows all.", rows.len());
        }
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
        let columns = [
            ("layer", Align::Left),
            ("type", Align::Left),
            ("weight", Align::Left),
            ("shape", Align::Left),
            ("bytes", Align::Right),
            ("of the file", Align::Right),
            ("stored as", Align::Left),
        ];
        text + &table(&columns, &rows, terminal_width())
    }

    fn json_of(&self, input: &Input, layers: &[LayerSurvey<'_>]) -> Value {
        let model = input.model;
        let proto = model.proto();
        let description = proto.description.as_ref();
        let feature = |feature: &FeatureDescription| {
            let info = FeatureInfo::of(feature);
            json!({
                "name": info.name, "type": info.kind.to_string(), "optional": info.optional,
                "description": feature.short_description,
            })
        };
        let list = |of: Option<&Vec<FeatureDescription>>| of.into_iter().flatten().map(feature).collect::<Vec<_>>();
        let weight = |layer: &LayerSurvey<'_>| {
            let rows = layer.weights.iter().map(|weight| {
                let units = weight.shape.iter().product();
                let bytes = weight.stored.as_ref().ok().map(|form| form.byte_len(units));
                json!({
                    "field": weight.field, "shape": weight.shape, "bytes": bytes,
                    "stored": weight.stored.as_ref().ok().map(ToString::to_string),
                    "error": weight.stored.as_ref().err().map(ToString::to_string),
                })
            });
            rows.collect::<Vec<_>>()
        };
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| {
                json!({
                    "network": &*layer.network, "name": layer.layer.name, "type": layer.layer_type,
                    "updatable": layer.layer.is_updatable, "weights": weight(layer),
                })
            })
            .collect();
        let members: Vec<Value> = model
            .members()
            .iter()
            .map(|(path, member)| {
                json!({
                    "path": path, "type": model_type(member), "updatable": member.is_updatable,
                    "specification_version": member.specification_version, "bytes": member.encoded_len(),
                    "preprocessing": preprocessing(member).iter().map(describe_preprocessing).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "path": self.model.to_string_lossy(),
            "bytes": input.len,
            "type": model.kind(),
            "specification_version": proto.specification_version,
            "updatable": proto.is_updatable,
            "inputs": list(description.map(|description| &description.input)),
            "outputs": list(description.map(|description| &description.output)),
            "metadata": model.metadata(),
            "class_labels": model.class_labels(),
            "members": members,
            "layers": layers,
            "findings": check(model).iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}

/// Inputs and outputs.
fn features(model: &proto::Model) -> String {
    let mut text = String::new();
    let Some(description) = &model.description else { return text };
    let lists = [
        ("input", &description.input),
        ("output", &description.output),
        ("state", &description.state),
        ("training input", &description.training_input),
    ];
    for (what, features) in lists {
        for feature in features {
            let info = FeatureInfo::of(feature);
            let optional = if info.optional { ", optional" } else { "" };
            let _ = writeln!(text, "{what} \"{}\": {}{optional}", info.name, info.kind);
        }
    }
    text
}

/// What the model says of itself, and its labels.
fn said(model: &Model) -> String {
    let mut text = String::new();
    let metadata = model.metadata();
    let known = [
        ("description", &metadata.description),
        ("author", &metadata.author),
        ("license", &metadata.license),
        ("version", &metadata.version),
    ];
    let own = metadata.user_defined.iter().map(|(key, value)| (key.as_str(), value));
    for (key, value) in known.into_iter().chain(own).filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "{key}: {value}");
    }
    if let Some(labels) = model.class_labels() {
        /// Labels that are shown.
        const FIRST: usize = 5;
        let first: Vec<String> = match &labels {
            ClassLabels::Strings(labels) => labels.iter().take(FIRST).cloned().collect(),
            ClassLabels::Int64s(labels) => labels.iter().take(FIRST).map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        let more = if labels.len() > FIRST { ", ..." } else { "" };
        let _ = writeln!(text, "{} classes: {}{more}", labels.len(), first.join(", "));
    }
    text
}

/// What is worth telling of one model: of a pipeline's members all, else what a network has beside its layers.
fn of_member(path: &str, model: &proto::Model) -> String {
    let mut text = String::new();
    if path.contains('/') {
        let (kind, bytes) = (model_type(model), thousands(model.encoded_len() as u64));
        let _ = writeln!(text, "{path}: {kind}, specificationVersion {}, {bytes} bytes", model.specification_version);
    }
    if let Some(Type::NonMaximumSuppression(suppression)) = &model.r#type {
        let (overlap, confidence) = (suppression.iou_threshold, suppression.confidence_threshold);
        let _ = writeln!(text, "{path}: boxes that overlap by more than {overlap} or below {confidence} are dropped");
    }
    if model.is_updatable {
        let _ = writeln!(text, "{path}: updatable on the device");
    }
    for step in preprocessing(model) {
        let _ = writeln!(text, "{path}: {}", describe_preprocessing(step));
    }
    text
}

/// What a network does with its images first.
fn preprocessing(model: &proto::Model) -> &[NeuralNetworkPreprocessing] {
    match &model.r#type {
        Some(Type::NeuralNetwork(network)) => &network.preprocessing,
        Some(Type::NeuralNetworkClassifier(network)) => &network.preprocessing,
        Some(Type::NeuralNetworkRegressor(network)) => &network.preprocessing,
        _ => &[],
    }
}

fn describe_preprocessing(step: &NeuralNetworkPreprocessing) -> String {
    let input = if step.feature_name.is_empty() { String::new() } else { format!(" of \"{}\"", step.feature_name) };
    match &step.preprocessor {
        Some(Preprocessor::Scaler(scaler)) => format!(
            "preprocessing{input}: times {}, plus red {}, green {}, blue {}, gray {}",
            scaler.channel_scale, scaler.red_bias, scaler.green_bias, scaler.blue_bias, scaler.gray_bias
        ),
        Some(Preprocessor::MeanImage(mean)) => format!(
            "preprocessing{input}: minus a mean image of {} values, {} bytes",
            thousands(mean.mean_image.len() as u64),
            thousands(4 * mean.mean_image.len() as u64)
        ),
        None => format!("preprocessing{input}: none"),
    }
}

/// What of the file is weights, by the types of their layers, and what is something else.
fn rest(input: &Input, layers: &[LayerSurvey<'_>]) -> String {
    let mut sums: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for layer in layers {
        let sum = sums.entry(layer.layer_type.unwrap_or("no type")).or_default();
        sum.0 += 1;
        for weight in &layer.weights {
            let Ok(form) = &weight.stored else { continue };
            let units: usize = weight.shape.iter().product();
            sum.1 += units as u64;
            sum.2 += form.byte_len(units) as u64;
        }
    }
    let means = input.model.members().into_iter().flat_map(|(_, member)| preprocessing(member));
    let mean_bytes: u64 = means
        .filter_map(|step| match &step.preprocessor {
            Some(Preprocessor::MeanImage(mean)) => Some(4 * mean.mean_image.len() as u64),
            _ => None,
        })
        .sum();
    let weight_bytes: u64 = sums.values().map(|sum| sum.2).sum();
    let row = |name: &str, numbers: [Option<u64>; 2], bytes: u64| {
        let number = |number: Option<u64>| number.map_or_else(String::new, thousands);
        vec![name.to_owned(), number(numbers[0]), number(numbers[1]), thousands(bytes), percent(bytes, input.len)]
    };
    let mut rows: Vec<Vec<String>> = sums
        .iter()
        .filter(|(_, sum)| sum.1 > 0)
        .map(|(name, (layers, values, bytes))| row(name, [Some(*layers), Some(*values)], *bytes))
        .collect();
    let weightless: u64 = sums.values().filter(|sum| sum.1 == 0).map(|sum| sum.0).sum();
    if mean_bytes > 0 {
        rows.push(row("mean images", [None, None], mean_bytes));
    }
    let other = input.len.saturating_sub(weight_bytes + mean_bytes);
    rows.push(row("structure and the rest", [Some(weightless), None], other));
    rows.push(row("the file", [Some(layers.len() as u64), None], input.len));
    let columns = [
        ("bytes of", Align::Left),
        ("layers", Align::Right),
        ("values", Align::Right),
        ("bytes", Align::Right),
        ("of the file", Align::Right),
    ];
    format!("\n{}", table(&columns, &rows, terminal_width()))
}

/// What quantizing could touch: what 8 bits would, and why they would leave the rest.
fn could(input: &Input) -> String {
    let everything = |config: QuantConfig| config.with_fold(false).with_requantize(true).with_growth(true);
    let previewed = QuantConfig::linear_lut(8).ok().and_then(|config| preview(input.model, &everything(config)).ok());
    let Some(report) = previewed.filter(|report| !report.weights.is_empty()) else { return String::new() };
    let totals = report.totals();
    let kept = report.weights.iter().filter(|weight| matches!(weight.outcome, Outcome::Kept(_)));
    let bytes = totals.bytes_before - kept.map(|weight| weight.bytes_before() as u64).sum::<u64>();
    let rest = match totals.weights - totals.converted {
        0 => String::new(),
        _ => format!("; not {}", report::reasons(&report)),
    };
    let (share, bytes) = (percent(bytes, input.len), thousands(bytes));
    format!(
        "\n{} of {} weights, {bytes} bytes ({share} of the file), can be stored in 8 bits or fewer{rest}\n",
        totals.converted, totals.weights
    )
}

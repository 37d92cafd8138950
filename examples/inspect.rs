//! Shows what a Core ML model holds: its inputs and outputs, its layers, how their weights are stored, and whether that
//! breaks a rule of Core ML's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use coreml_quant::proto::FeatureDescription;
use coreml_quant::proto::feature_type::Type;
use coreml_quant::{Error, Model, check, compare};

/// Shows the layers of a Core ML model and how their weights are stored, or compares two models of the same network.
#[derive(Parser)]
struct Options {
    /// The model to read.
    model: PathBuf,
    /// Another model of the same network: compare the weights instead, in whatever forms they are stored.
    other: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Error> {
    let model = Model::open(&options.model)?;
    if let Some(other) = &options.other {
        return print_comparison(&model, &Model::open(other)?);
    }
    println!("{}, specificationVersion {}", model.kind(), model.proto().specification_version);
    if let Some(description) = &model.proto().description {
        print_features("input", &description.input);
        print_features("output", &description.output);
    }

    let mean_images = model.mean_images();
    for mean_image in &mean_images {
        println!("{mean_image}");
    }

    #[derive(Default)]
    struct Total {
        layers: usize,
        values: usize,
        bytes: usize,
    }
    let mut totals: BTreeMap<&str, Total> = BTreeMap::new();
    let mut network = "".into();
    for layer in model.layers() {
        if layer.network != network {
            network = layer.network;
            println!("\n{network}");
        }
        let layer_type = layer.layer_type.unwrap_or("no type");
        println!("  {layer_type} \"{}\"", layer.layer.name);
        let total = totals.entry(layer_type).or_default();
        total.layers += 1;
        for weight in layer.weights {
            let shape = weight.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
            match weight.stored {
                Ok(form) => {
                    let values = weight.shape.iter().product();
                    let bytes = form.byte_len(values);
                    total.values += values;
                    total.bytes += bytes;
                    println!("    {} {shape}: {form}, {bytes} bytes", weight.field);
                }
                Err(error) => println!("    {} {shape}: {error}", weight.field),
            }
        }
    }

    for mean_image in &mean_images {
        let total = totals.entry("(mean image)").or_default();
        total.values += mean_image.values;
        total.bytes += mean_image.bytes();
    }
    if !totals.is_empty() {
        println!("\n{:24} {:>8} {:>14} {:>14}", "layer type", "layers", "values", "bytes");
        for (layer_type, total) in &totals {
            println!("{layer_type:24} {:>8} {:>14} {:>14}", total.layers, total.values, total.bytes);
        }
        let sum = |of: fn(&Total) -> usize| totals.values().map(of).sum::<usize>();
        println!("{:24} {:>8} {:>14} {:>14}", "total", sum(|t| t.layers), sum(|t| t.values), sum(|t| t.bytes));
    }
    let findings = check(&model);
    if !findings.is_empty() {
        println!("\nCore ML's rules are broken:");
    }
    for finding in findings {
        println!("  {finding}");
    }
    Ok(())
}

fn print_comparison(model: &Model, other: &Model) -> Result<(), Error> {
    let report = compare(model, other)?;
    println!("{report}");
    let layers = report.worst_layers();
    let mut worst = layers.iter().take_while(|layer| layer.sqnr_db.is_finite()).take(10).peekable();
    if worst.peek().is_some() {
        println!("\nworst layers");
    }
    for layer in worst {
        println!("{:8.2} dB  {}/{}, largest error {:.3e}", layer.sqnr_db, layer.network, layer.layer, layer.max_error);
    }
    Ok(())
}

fn print_features(what: &str, features: &[FeatureDescription]) {
    for feature in features {
        let kind = match feature.r#type.as_ref().and_then(|kind| kind.r#type.as_ref()) {
            Some(Type::MultiArrayType(array)) => format!("array {:?}", array.shape),
            Some(Type::ImageType(image)) => format!("image {} x {}", image.width, image.height),
            Some(Type::Int64Type(_)) => "integer".to_owned(),
            Some(Type::DoubleType(_)) => "number".to_owned(),
            Some(Type::StringType(_)) => "string".to_owned(),
            Some(Type::DictionaryType(_)) => "dictionary".to_owned(),
            Some(Type::SequenceType(_)) => "sequence".to_owned(),
            Some(Type::StateType(_)) => "state".to_owned(),
            None => "no type".to_owned(),
        };
        println!("{what} \"{}\": {kind}", feature.name);
    }
}

//! The recorded cases whose networks have only layers of these families, run layer after layer.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use ndarray::IxDyn;

use super::*;
use crate::Model;
use crate::proto::feature_type::Type as Feature;
use crate::proto::model::Type;

struct Item {
    kind: String,
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The blob of an array in a network whose arrays have five axes.
fn rank5(shape: &[usize], declared: usize) -> Vec<usize> {
    match (shape.len(), declared) {
        (5, _) => shape.to_vec(),
        (1, 1) => vec![1, 1, shape[0], 1, 1],
        (3, 1) => [shape, &[1, 1]].concat(),
        (3, 3) => [&[1, 1], shape].concat(),
        (2, 1) => vec![1, shape[0], shape[1], 1, 1],
        (4, 3) => [&[1], shape].concat(),
        _ => shape.to_vec(),
    }
}

fn run(items: &[Item], mapping: &str) -> Result<Option<HashMap<String, Tensor>>, String> {
    let model = items.iter().find(|item| item.kind == "model").ok_or("no model")?;
    let model = Model::from_bytes(model.bytes.clone()).map_err(|error| error.to_string())?;
    let layers = match model.proto().r#type.as_ref() {
        Some(Type::NeuralNetwork(network)) => &network.layers,
        Some(Type::NeuralNetworkClassifier(network)) => &network.layers,
        Some(Type::NeuralNetworkRegressor(network)) => &network.layers,
        _ => return Ok(None),
    };
    let description = model.proto().description.clone().unwrap_or_default();
    let mut blobs = HashMap::new();
    if items.iter().any(|item| item.kind == "image") {
        return Ok(None);
    }
    for item in items.iter().filter(|item| item.kind == "input") {
        let input = description.input.iter().find(|input| input.name == item.name).ok_or("no such input")?;
        let declared = match input.r#type.as_ref().and_then(|kind| kind.r#type.as_ref()) {
            Some(Feature::MultiArrayType(array)) => array.shape.len(),
            _ => return Ok(None),
        };
        let shape = if mapping == "0" { rank5(&item.shape, declared) } else { item.shape.clone() };
        let blob = Tensor::from_shape_vec(IxDyn(&shape), floats(&item.bytes)).map_err(|error| error.to_string())?;
        blobs.insert(item.name.clone(), blob);
    }
    for layer in layers {
        let inputs: Vec<Tensor> = layer.input.iter().filter_map(|name| blobs.get(name).cloned()).collect();
        let Some(kind) = &layer.layer else { return Ok(None) };
        let Some(outputs) = eval(kind, &inputs, &mut context(layer.output.len())) else { return Ok(None) };
        let outputs = outputs.map_err(|error| format!("{}: {error}", layer.name))?;
        for y in &outputs {
            assert!(y.is_standard_layout(), "{}", layer.name);
        }
        blobs.extend(layer.output.iter().cloned().zip(outputs));
    }
    Ok(Some(blobs))
}

fn compared(y: &Tensor, item: &Item, rule: &str, metric: &str, tolerance: f32) -> Result<(), String> {
    let squeezed = |shape: &[usize]| shape.iter().copied().filter(|&len| len != 1).collect::<Vec<_>>();
    let same = match rule {
        "exact" => y.shape() == item.shape,
        "squeezed" => squeezed(y.shape()) == squeezed(&item.shape),
        _ => true,
    };
    if !same {
        return Err(format!("{}: shape {:?}, {:?} expected", item.name, y.shape(), item.shape));
    }
    if metric == "shape" || item.bytes.is_empty() {
        return Ok(());
    }
    let expected = floats(&item.bytes);
    if expected.len() != y.len() {
        return Err(format!("{}: {} values, {} expected", item.name, y.len(), expected.len()));
    }
    for (i, (&y, &e)) in y.iter().zip(&expected).enumerate() {
        let equal = y == e || (y.is_nan() && e.is_nan()) || (y - e).abs() <= tolerance * e.abs().max(1.0);
        if !equal {
            return Err(format!("{}[{i}]: {y}, {e} expected", item.name));
        }
    }
    Ok(())
}

#[test]
fn recorded_cases() {
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/predict/layer-cases"));
    let folder = std::env::var_os("COREML_QUANT_CASES").map_or(beside, PathBuf::from);
    let Ok(cases) = std::fs::read_to_string(folder.join("cases.tsv")) else { return };
    let mut items: BTreeMap<String, Vec<Item>> = BTreeMap::new();
    let mut files: HashMap<String, Vec<u8>> = HashMap::new();
    for line in std::fs::read_to_string(folder.join("index.tsv")).unwrap().lines().skip(1) {
        let f: Vec<&str> = line.split('\t').collect();
        let file = files.entry(f[5].into()).or_insert_with(|| std::fs::read(folder.join(f[5])).unwrap());
        let (offset, len) = (f[6].parse::<usize>().unwrap(), f[7].parse::<usize>().unwrap());
        items.entry(f[0].into()).or_default().push(Item {
            kind: f[1].into(),
            name: f[2].into(),
            shape: f[4].split(',').filter_map(|dim| dim.parse().ok()).collect(),
            bytes: file[offset..offset + len].to_vec(),
        });
    }
    let (mut passed, mut skipped, mut failed) = (BTreeMap::<String, usize>::new(), 0, Vec::new());
    for line in cases.lines().skip(1) {
        let f: Vec<&str> = line.split('\t').collect();
        let items = &items[f[0]];
        match run(items, f[4]) {
            Ok(None) => skipped += 1,
            Err(error) => failed.push(format!("{} {}: {error}", f[2], f[0])),
            Ok(Some(blobs)) => {
                let outputs = items.iter().filter(|item| item.kind == "output");
                let result = outputs.map(|item| {
                    let y = blobs.get(&item.name).ok_or(format!("no output {}", item.name))?;
                    compared(y, item, f[5], f[6], f[7].parse().unwrap_or(0.0))
                });
                match result.collect::<Result<Vec<()>, String>>() {
                    Ok(_) => *passed.entry(f[2].into()).or_default() += 1,
                    Err(error) => failed.push(format!("{} {}: {error}", f[2], f[0])),
                }
            }
        }
    }
    let count: usize = passed.values().sum();
    println!("{count} cases of {} kinds passed, {skipped} skipped, {} failed", passed.len(), failed.len());
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

//! Recorded outputs of whole networks against the executor: `whole-networks.tsv` of the folder that
//! `COREML_QUANT_NETWORKS` names and the models of `COREML_QUANT_MODELS`, or `../shared/predict/whole-networks` and
//! `../shared/models` beside the checkout.

mod recorded;

use std::collections::BTreeMap;
use std::fs;

use coreml_quant::Model;
use coreml_quant::predict::{Features, Predictor};
use coreml_quant::proto::model::Type;
use recorded::{Row, Table, blobs, floats, folder, value};

/// Of the output's range; the recorded outputs were computed in float64.
const TOLERANCE: f32 = 1e-4;

/// The member of a pipeline that a path such as `/1` names.
fn member(model: &Model, path: &str) -> Model {
    let mut proto = model.proto().clone();
    for index in path.split('/').filter_map(|part| part.parse::<usize>().ok()) {
        let pipeline = match proto.r#type.unwrap() {
            Type::Pipeline(pipeline) => pipeline,
            Type::PipelineClassifier(classifier) => classifier.pipeline.unwrap(),
            Type::PipelineRegressor(regressor) => regressor.pipeline.unwrap(),
            _ => panic!("no pipeline at {path}"),
        };
        proto = pipeline.models[index].clone();
    }
    Model::from_proto(proto)
}

#[test]
fn whole_networks() {
    let (Some(networks), Some(models)) =
        (folder("COREML_QUANT_NETWORKS", "predict/whole-networks"), folder("COREML_QUANT_MODELS", "models"))
    else {
        println!("no recorded networks");
        return;
    };
    let table = Table::read(&networks.join("whole-networks.tsv"));
    let file = fs::read(networks.join("whole-networks.bin")).unwrap();
    let mut runs: BTreeMap<[&str; 3], Vec<Row<'_>>> = BTreeMap::new();
    for row in table.rows() {
        runs.entry([row.get("model"), row.get("network"), row.get("seed")]).or_default().push(row);
    }
    let mut failures = Vec::new();
    let mut count = 0;
    for ([name, path, seed], items) in &runs {
        let file_name = models.join(name);
        if !file_name.exists() {
            continue;
        }
        count += 1;
        if let Err(why) = run(&member(&Model::open(file_name).unwrap(), path), items, &file) {
            failures.push(format!("{name} {path} {seed}: {why}"));
        }
    }
    println!("{count} runs of whole networks");
    assert!(count > 0, "no models in {}", models.display());
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn run(model: &Model, items: &[Row<'_>], file: &[u8]) -> Result<(), String> {
    let mut features = Features::new();
    for item in items.iter().filter(|item| item.get("kind") != "output") {
        features.insert(item.get("name"), value(item.get("kind"), &item.shape('x'), item.bytes(file)));
    }
    let predictor = Predictor::new(model).map_err(|error| error.to_string())?;
    let outputs: Vec<_> = items.iter().filter(|item| item.get("kind") == "output").collect();
    let names: Vec<&str> = outputs.iter().map(|item| item.get("name")).collect();
    for (item, blob) in outputs.iter().zip(blobs(&predictor, &features, &names)?) {
        let blob = blob.ok_or_else(|| format!("no output {}", item.get("name")))?;
        let expected = floats(item.bytes(file));
        if blob.len() != expected.len() {
            return Err(format!(
                "{} has the shape {:?}, {:?} expected",
                item.get("name"),
                blob.shape(),
                item.shape('x')
            ));
        }
        let range = expected.iter().fold(1.0_f32, |range, value| range.max(value.abs()));
        let error = blob.iter().zip(&expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
        let nan = blob.iter().zip(&expected).any(|(found, expected)| found.is_nan() != expected.is_nan());
        if nan || error > TOLERANCE * range {
            return Err(format!("{} is {error} off, of {range}", item.get("name")));
        }
    }
    Ok(())
}

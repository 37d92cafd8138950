//! Holds what inputs of layers are taken for against the executor: every recorded case with one of its inputs as a
//! constant whose values are a little off. Where that is allowed, the outputs are a little off and no more.

mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use coreml_quant::predict::{Features, Predictor, Tensor};
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{LoadConstantNdLayerParams, NeuralNetworkLayer, WeightParams};
use coreml_quant::{
    Model, Outcome, Payload, QuantConfig, QuantizeContext, QuantizeError, Quantizer, Reason, StoredForm, WeightInfo,
    WeightSpec, WeightView, quantize_weights,
};
use half::f16;
use recorded::{Row, Table, floats, folder, value};

const CONSTANT: &str = "the constant";

/// Layers that make a step of something small, as they should, or are steep.
#[rustfmt::skip]
const STEPS: [&str; 23] = [
    "floor", "ceil", "round", "sign", "floorDivBroadcastable", "modBroadcastable",
    "equal", "notEqual", "lessThan", "lessEqual", "greaterThan", "greaterEqual",
    "argMax", "argMin", "argSort", "topK", "reduce", "unary", "activation",
    "NonMaximumSuppression", "categoricalDistribution", "atanh", "scatter",
];

/// Layers that take at least one of their inputs for something exact, in our own cases.
#[rustfmt::skip]
const EXACT: [&str; 25] = [
    "branch", "broadcastToDynamic", "embeddingND", "fillDynamic", "gather", "gatherAlongAxis", "gatherND", "logicalAnd",
    "logicalNot", "logicalOr", "logicalXor", "oneHot", "randomBernoulliDynamic", "randomNormalDynamic",
    "randomUniformDynamic", "rangeDynamic", "reshapeDynamic", "reverseSeq", "scatter", "scatterAlongAxis", "scatterND",
    "sliceBySize", "sliceDynamic", "whereBroadcastable", "whereNonZero",
];

/// And in further cases, where they are at hand.
#[rustfmt::skip]
const ALSO: [&str; 8] = [
    "NonMaximumSuppression", "constantPad", "cumSum", "embedding", "loop", "several-layers", "tile", "topK",
];

/// float16 of values that are all a little smaller.
#[derive(Debug)]
struct Nudge;

impl Quantizer for Nudge {
    fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
        StoredForm::Float16
    }

    fn quantize(&self, weight: WeightView<'_>, _: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        let nudged = |value: f32| f16::from_f32(value - value.abs() / 256.0 - 1.0 / 512.0).to_le_bytes();
        Ok(Payload::Float16(weight.iter().flat_map(nudged).collect()))
    }
}

/// A model with one of its inputs as a constant; `None` for what is no plain network.
fn with_constant(model: &Model, name: &str, shape: &[usize], values: &[f32]) -> Option<Model> {
    let mut model = model.clone();
    let Type::NeuralNetwork(network) = model.proto_mut().r#type.as_mut()? else { return None };
    let exact = network.array_input_shape_mapping == 1;
    let shape: Vec<u64> = match *shape {
        _ if exact => shape.iter().map(|&size| size as u64).collect(),
        [channels] => vec![1, 1, channels as u64, 1, 1],
        [channels, height, width] => vec![1, 1, channels as u64, height as u64, width as u64],
        _ => return None,
    };
    let constant = LoadConstantNdLayerParams { shape, data: Some(WeightParams::from_floats(values)) };
    let layer = NeuralNetworkLayer {
        name: CONSTANT.into(),
        output: vec![name.into()],
        layer: Some(Layer::LoadConstantNd(constant)),
        ..Default::default()
    };
    network.layers.insert(0, layer);
    model.proto_mut().description.as_mut()?.input.retain(|input| input.name != name);
    Some(model)
}

fn run(model: &Model, features: &Features, outputs: &[&str]) -> Result<Vec<Option<Tensor>>, String> {
    let predictor = Predictor::new(model).map_err(|error| error.to_string())?;
    recorded::blobs(&predictor, features, outputs)
}

/// What differs more than a little.
fn far(expected: &[Option<Tensor>], found: &[Option<Tensor>]) -> Option<String> {
    for (expected, found) in expected.iter().flatten().zip(found.iter().flatten()) {
        if expected.shape() != found.shape() {
            return Some(format!("shapes {:?} and {:?}", expected.shape(), found.shape()));
        }
        let largest = expected.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
        for (expected, found) in expected.iter().zip(found) {
            if (expected - found).abs() > 0.2 * largest {
                return Some(format!("{expected} became {found}"));
            }
        }
    }
    None
}

#[test]
fn inputs_that_need_not_be_exact_need_not_be_exact() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/predict/cases");
    let folders = [own.exists().then_some(own), folder("COREML_QUANT_CASES", "predict/layer-cases")];
    let (mut failures, mut exact, mut off) = (Vec::new(), BTreeSet::new(), 0);
    for folder in folders.into_iter().flatten() {
        let (cases, index) = (Table::read(&folder.join("cases.tsv")), Table::read(&folder.join("index.tsv")));
        let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        let mut items: BTreeMap<&str, Vec<Row<'_>>> = BTreeMap::new();
        for item in index.rows() {
            files.entry(item.get("file")).or_insert_with(|| fs::read(folder.join(item.get("file"))).unwrap());
            items.entry(item.get("case")).or_default().push(item);
        }
        for case in cases.rows() {
            let items = &items[case.get("case")];
            let of_kind = |kind: &'static str| items.iter().filter(move |item| item.get("kind") == kind);
            let bytes = |item: &Row<'_>| item.bytes(&files[item.get("file")]).to_vec();
            let model = Model::from_bytes(bytes(of_kind("model").next().unwrap())).unwrap();
            let outputs: Vec<&str> = of_kind("output").map(|item| item.get("name")).collect();
            for input in of_kind("input") {
                let (name, shape, values) = (input.get("name"), input.shape(','), floats(&bytes(input)));
                let Some(model) = with_constant(&model, name, &shape, &values) else { continue };
                let mut features = Features::new();
                for other in of_kind("input").filter(|other| other.get("name") != name) {
                    features.insert(other.get("name"), value("input", &other.shape(','), &bytes(other)));
                }
                // Some layers read the shape of their input from the description, which is gone.
                let Ok(expected) = run(&model, &features, &outputs) else { continue };
                let only = |weight: &WeightInfo<'_>| weight.layer_name == CONSTANT;
                let config = QuantConfig::custom(Nudge).with_selector(only);
                let Ok(quantized) = quantize_weights(&model, &config) else { continue };
                let outcome = quantized.report.weights.iter().find(|weight| &*weight.place.layer == CONSTANT);
                match outcome.map(|weight| weight.outcome) {
                    Some(Outcome::Kept(Reason::MustBeExact { .. })) => {
                        exact.insert(case.get("group").to_owned());
                    }
                    Some(Outcome::Converted) if !STEPS.contains(&case.get("group")) => {
                        off += 1;
                        let found = run(&quantized.model, &features, &outputs);
                        if let Some(why) = found.map_or_else(Some, |found| far(&expected, &found)) {
                            failures.push(format!("{} {}, {name}: {why}", case.get("group"), case.get("case")));
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    println!("{off} inputs were a little off; exact inputs in {exact:?}");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(off > 100, "{off}");
    let missing: Vec<_> = EXACT.iter().filter(|&&group| !exact.contains(group)).collect();
    assert!(missing.is_empty(), "nothing of these is exact: {missing:?}");
    let more: Vec<_> = exact.iter().filter(|group| !EXACT.iter().chain(&ALSO).any(|known| known == group)).collect();
    assert!(more.is_empty(), "exact for no reason: {more:?}");
}

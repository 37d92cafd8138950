//! Holds the table of inputs against the schema, and the way back against small networks.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::{DescriptorProto, FileDescriptorSet};

use super::*;
use crate::format::proto::model::Type;
use crate::format::proto::{LoopLayerParams, NeuralNetwork};

/// What the inputs of every layer type mean, one letter each; the last letter stands for all that follow. `d` data,
/// `v` values that go on, `0` and `1` values that go into that output only, `i` index, `s` shape, `a` axis, `c` count,
/// `l` length, `b` condition.
const INPUTS: &str = "
    d: convolution pooling innerProduct batchnorm mvn l2normalize softmax lrn resizeBilinear dot simpleRecurrent gru
       uniDirectionalLSTM biDirectionalLSTM custom exp2 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf
       gelu softmaxND reduceL1 reduceL2 reduceLogSum reduceSumSquare reduceLogSumExp argMax argMin argSort
       categoricalDistribution layerNormalization batchedMatmul convolution3d pooling3d globalPooling3d activation
       getShape fillLike randomNormalLike randomUniformLike randomBernoulliLike
       loadConstant loadConstantND fillStatic rangeStatic randomNormalStatic randomUniformStatic randomBernoulliStatic
       loopBreak loopContinue
    v: unary add multiply average scale bias max min reduce reshape flatten permute concat split sequenceRepeat
       reorganizeData slice padding upsample copy clip ceil floor sign round equal notEqual lessThan lessEqual
       greaterThan greaterEqual modBroadcastable minBroadcastable maxBroadcastable addBroadcastable powBroadcastable
       divideBroadcastable floorDivBroadcastable multiplyBroadcastable subtractBroadcastable stack reverse splitND
       concatND transpose sliceStatic slidingWindows broadcastToStatic squeeze expandDims flattenTo2D reshapeStatic
       rankPreservingReshape reduceMax reduceMin reduceSum reduceProd reduceMean matrixBandPart lowerTriangular
       upperTriangular clampedReLU
    b: logicalOr logicalXor logicalNot logicalAnd whereNonZero branch
    vd: crop reshapeLike broadcastToLike
    vs: reshapeDynamic broadcastToDynamic
    vc: tile constantPad
    vl: reverseSeq
    vi: sliceDynamic sliceBySize gather gatherND gatherAlongAxis
    viv: scatter scatterND scatterAlongAxis
    va: cumSum
    bv: whereBroadcastable
    0c: topK
    01ddc: NonMaximumSuppression
    i: embedding embeddingND
    di: cropResize
    ic: oneHot
    l: rangeDynamic
    s: fillDynamic randomNormalDynamic randomUniformDynamic randomBernoulliDynamic
    c: loop
";

fn letter(input: Input) -> char {
    match (input.exact_for, input.passes) {
        (None, Passes::Nowhere) => 'd',
        (None, Passes::On) => 'v',
        (None, Passes::To(output)) => char::from_digit(output as u32, 10).unwrap(),
        (Some(ValueUse::Index), Passes::Nowhere) => 'i',
        (Some(ValueUse::Shape), Passes::Nowhere) => 's',
        (Some(ValueUse::Axis), Passes::Nowhere) => 'a',
        (Some(ValueUse::Count), Passes::Nowhere) => 'c',
        (Some(ValueUse::Length), Passes::Nowhere) => 'l',
        (Some(ValueUse::Condition), Passes::Nowhere) => 'b',
        (Some(_), _) => panic!("{input:?} is used and goes on"),
    }
}

fn layer_message() -> DescriptorProto {
    let bytes = include_bytes!("../../format/generated/descriptors.bin");
    let files = FileDescriptorSet::decode(&bytes[..]).unwrap().file;
    files.into_iter().flat_map(|file| file.message_type).find(|m| m.name() == "NeuralNetworkLayer").unwrap()
}

#[test]
fn every_layer_of_the_schema_takes_its_inputs_as_listed() {
    let mut expected: BTreeMap<&str, &str> = BTreeMap::new();
    let mut letters = "";
    for word in INPUTS.split_whitespace() {
        match word.strip_suffix(':') {
            Some(heading) => letters = heading,
            None => assert_eq!(expected.insert(word, letters), None, "{word} is listed twice"),
        }
    }
    let mut in_schema = BTreeSet::new();
    let message = layer_message();
    for field in message.field.iter().filter(|field| field.oneof_index.is_some()) {
        let mut bytes = Vec::new();
        encode_key(field.number() as u32, WireType::LengthDelimited, &mut bytes);
        encode_varint(0, &mut bytes);
        let mut layer = NeuralNetworkLayer::decode(&bytes[..]).unwrap();
        let kind = layer.layer.take().unwrap();
        let letters = expected.get(field.name()).copied().unwrap_or_else(|| panic!("{} is not listed", field.name()));
        let last = letters.chars().last().unwrap();
        for (index, expected) in letters.chars().chain(std::iter::repeat_n(last, 6)).enumerate() {
            assert_eq!(letter(Input::of(&kind, index)), expected, "input {index} of {}", field.name());
        }
        in_schema.insert(field.name());
    }
    assert_eq!(in_schema, expected.into_keys().collect());
    assert!(in_schema.len() > 140);
}

fn layer(name: &str, input: &str, output: &str, layer: Layer) -> NeuralNetworkLayer {
    let names = |names: &str| names.split_whitespace().map(str::to_owned).collect();
    NeuralNetworkLayer {
        name: name.into(),
        input: names(input),
        output: names(output),
        layer: Some(layer),
        ..Default::default()
    }
}

fn constant(output: &str) -> NeuralNetworkLayer {
    layer(output, "", output, Layer::LoadConstantNd(Default::default()))
}

/// What the constants of a network's first layers must be exact for.
fn uses(layers: &[NeuralNetworkLayer]) -> Vec<(&str, Option<ValueUse>)> {
    let network = NeuralNetwork { layers: layers.to_vec(), ..Default::default() };
    let uses = Uses::of_model(&Model { r#type: Some(Type::NeuralNetwork(network)), ..Default::default() });
    let constants =
        layers.iter().enumerate().filter(|(_, layer)| matches!(layer.layer, Some(Layer::LoadConstantNd(_))));
    constants.map(|(index, layer)| (layer.name.as_str(), uses.of_stored(index))).collect()
}

#[test]
fn only_the_values_of_the_k_best_go_on() {
    let network = [
        constant("values"),
        constant("k"),
        constant("data"),
        layer("topK", "values k", "best places", Layer::TopK(Default::default())),
        layer("gather", "data best", "a", Layer::Gather(Default::default())),
    ];
    assert_eq!(uses(&network), [("values", Some(ValueUse::Index)), ("k", Some(ValueUse::Count)), ("data", None)]);
    let mut by_place = network;
    by_place[4].input[1] = "places".into();
    assert_eq!(uses(&by_place), [("values", None), ("k", Some(ValueUse::Count)), ("data", None)]);
}

#[test]
fn a_loop_reads_its_condition_and_what_its_body_uses() {
    let inner = |layers| Some(NeuralNetwork { layers, ..Default::default() });
    let params = LoopLayerParams {
        condition_var: "go".into(),
        condition_network: inner(vec![layer("less", "i limit", "go", Layer::LessThan(Default::default()))]),
        body_network: inner(vec![
            layer("at", "data i", "row", Layer::Gather(Default::default())),
            layer("next", "i one", "j", Layer::AddBroadcastable(Default::default())),
            layer("again", "j", "i", Layer::Copy(Default::default())),
        ]),
        ..Default::default()
    };
    let network = [
        constant("i"),
        constant("limit"),
        constant("one"),
        constant("data"),
        constant("rounds"),
        layer("loop", "rounds", "", Layer::Loop(params)),
    ];
    assert_eq!(
        uses(&network),
        [
            ("i", Some(ValueUse::Index)),
            ("limit", Some(ValueUse::Condition)),
            ("one", Some(ValueUse::Index)),
            ("data", None),
            ("rounds", Some(ValueUse::Count)),
        ]
    );
}

#[test]
fn a_long_way_back_and_a_wide_one_take_no_time() {
    const LAYERS: usize = 20_000;
    let mut network = vec![constant("x0")];
    for index in 0..LAYERS {
        // Each also reads itself, in a circle.
        let (input, output) = (format!("x{index} y"), format!("x{} y", index + 1));
        network.push(layer("move", &input, &output, Layer::AddBroadcastable(Default::default())));
    }
    let wide: String = (0..LAYERS).map(|index| format!("x{index} ")).collect();
    network.push(layer("wide", &wide, &wide, Layer::ConcatNd(Default::default())));
    network.push(layer("gather", &format!("data x{LAYERS}"), "out", Layer::Gather(Default::default())));
    assert_eq!(uses(&network), [("x0", Some(ValueUse::Index))]);
}

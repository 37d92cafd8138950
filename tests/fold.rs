//! Folding layer by layer: that the network computes the same, and that each hazard keeps its layers apart.

mod evaluate;
mod networks;

use std::collections::BTreeMap;

use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{
    self, CustomLayerParams, LoopBreakLayerParams, LoopLayerParams, LossLayer, MeanSquaredErrorLossLayer,
    NetworkUpdateParameters, NeuralNetworkClassifier, NeuralNetworkLayer, Pipeline, Tensor as StatedShape,
    WeightParams, loss_layer,
};
use coreml_quant::{
    Biases, Dequantize, Error, Float16, FoldReason, KmeansLut, Model, Nbits, Outcome, QuantConfig, Reason, WeightInfo,
    check, fold, quantize_weights,
};
use evaluate::{Tensor, assert_same};
use networks::*;

/// Folds, checks that the outputs are the same on noise of the given shape, and returns the folded model and how many
/// folds there were.
fn folded(model: &Model, shape: &[usize]) -> (Model, usize) {
    let result = fold(model).unwrap();
    for seed in 0..2 {
        let inputs = BTreeMap::from([
            ("x".to_owned(), Tensor::noise(shape, seed)),
            ("flag".to_owned(), Tensor::new(&[1], vec![seed as f64])),
        ]);
        assert_same(model, &result.model, &inputs);
    }
    let (before, after) = (model.layers().len(), result.model.layers().len());
    assert_eq!(after, before - result.report.folds.len(), "each fold takes a layer away");
    assert!(check(&result.model).len() <= check(model).len(), "folding breaks no rule of Core ML");
    (result.model, result.report.folds.len())
}

/// A chain of two layers, `x` to `y` to `z`.
fn pair(first: NeuralNetworkLayer, second: NeuralNetworkLayer) -> Model {
    model(vec![first, second], &["x"], &["z"])
}

/// The two stay apart, for this reason.
#[track_caller]
fn assert_kept(model: &Model, reason: FoldReason) {
    let result = fold(model).unwrap();
    let reasons: Vec<_> = result.report.not_folded.iter().map(|not_folded| not_folded.reason).collect();
    assert_eq!((result.report.folds.len(), &reasons[..]), (0, &[reason][..]), "{:#}", result.report);
    assert!(result.model.to_bytes() == model.to_bytes(), "the model is as it was");
}

const XY: Io<'static> = ("x", "y");
const YZ: Io<'static> = ("y", "z");

/// Convolutions of 4 to 8 channels, in every variant, and the input's shape.
fn convolutions() -> Vec<NeuralNetworkLayer> {
    let conv = |change: &dyn Fn(&mut proto::ConvolutionLayerParams)| convolution("conv", XY, [4, 8], change);
    vec![
        conv(&|_| {}),
        conv(&|p| p.has_bias = true),
        conv(&|p| p.n_groups = 2),
        // Depthwise with two outputs for each input.
        conv(&|p| p.n_groups = 4),
        conv(&|p| p.dilation_factor = vec![2, 1]),
        conv(&|p| (p.stride, p.has_bias) = (vec![2, 1], true)),
        conv(&|p| p.kernel_size = vec![1, 1]),
        conv(&|p| p.is_deconvolution = true),
        conv(&|p| (p.is_deconvolution, p.n_groups, p.has_bias) = (true, 2, true)),
        conv(&|p| (p.is_deconvolution, p.n_groups, p.stride) = (true, 4, vec![2, 3])),
        conv(&|p| (p.is_deconvolution, p.stride, p.kernel_size) = (true, vec![2, 2], vec![2, 4])),
    ]
}

/// What follows 8 channels: along the channels, or the same everywhere.
fn followers() -> Vec<NeuralNetworkLayer> {
    vec![
        batchnorm("bn", YZ, 8),
        scale("scale", YZ, &[8], &[]),
        scale("scale", YZ, &[8, 1, 1], &[8]),
        scale("scale", YZ, &[1], &[8, 1, 1]),
        scale("scale", YZ, &[8], &[1]),
        scale("scale", YZ, &[1, 1, 1], &[1]),
        bias("bias", YZ, &[8]),
        bias("bias", YZ, &[8, 1, 1]),
        bias("bias", YZ, &[1]),
    ]
}

#[test]
fn convolutions_take_up_what_follows() {
    for conv in convolutions() {
        for next in followers() {
            let (model, folds) = folded(&pair(conv.clone(), next.clone()), &[2, 4, 5, 6]);
            assert_eq!(folds, 1, "{:?}", next.layer);
            assert_eq!((&layers_of(&model)[0].name[..], &layers_of(&model)[0].output[0][..]), ("conv", "z"));
        }
    }
}

#[test]
fn batchnorm_and_scale_take_up_what_follows() {
    for (next, folds) in [
        (scale("next", YZ, &[4], &[]), 1),
        (scale("next", YZ, &[4, 1, 1], &[1]), 1),
        (scale("next", YZ, &[1], &[4]), 1),
        (bias("next", YZ, &[4]), 1),
        (bias("next", YZ, &[1, 1, 1]), 1),
        (bias("next", YZ, &[1, 3, 3]), 0),
        // Nothing that coremltools folds either.
        (batchnorm("next", YZ, 4), 0),
    ] {
        let model = pair(batchnorm("bn", XY, 4), next);
        assert_eq!(folded(&model, &[1, 4, 3, 3]).1, folds);
    }
    // Statistics computed at run time do not matter to what comes after; files may hold empty ones.
    let mut at_run_time = batchnorm("bn", XY, 4);
    if let Some(Layer::Batchnorm(params)) = &mut at_run_time.layer {
        (params.compute_mean_var, params.instance_normalization) = (true, true);
        (params.mean, params.variance) = (None, Some(WeightParams::default()));
    }
    assert_eq!(folded(&pair(at_run_time, scale("next", YZ, &[4], &[4])), &[2, 4, 3, 3]).1, 1);
    for (shape_scale, shape_bias, shape_next, folds) in [
        (&[4][..], &[][..], &[4][..], 1),
        (&[4], &[], &[1], 1),
        (&[4], &[4], &[4, 1, 1], 1),
        (&[4], &[1], &[4], 1),
        (&[1], &[], &[4, 1, 1], 1),
        (&[4, 1, 1], &[4], &[1], 1),
        // A scale of any shape takes a bias if it has none, or one along the same axis.
        (&[4, 3, 3], &[], &[4], 1),
        (&[1, 3, 3], &[4], &[4], 1),
        (&[4], &[4, 3, 3], &[4], 0),
        (&[4], &[1, 3, 3], &[4], 0),
        (&[4], &[], &[4, 3, 3], 0),
    ] {
        let model = pair(scale("scale", XY, shape_scale, shape_bias), bias("bias", YZ, shape_next));
        assert_eq!(folded(&model, &[1, 4, 3, 3]).1, folds, "{shape_scale:?} {shape_bias:?} {shape_next:?}");
    }
}

#[test]
fn products_take_up_what_goes_along_their_outputs() {
    for has_bias in [false, true] {
        // Five dimensions, or four: the outputs are the third axis from the end.
        for next in followers() {
            let mut first = inner_product("ip", XY, [6, 8], has_bias);
            assert_eq!(folded(&pair(first.clone(), next.clone()), &[2, 1, 6, 1, 1]).1, 1, "{:?}", next.layer);
            first.output_tensor = vec![StatedShape { rank: 4, dim_value: Vec::new() }];
            assert_eq!(folded(&pair(first, next.clone()), &[2, 6, 1, 1]).1, 1, "{:?}", next.layer);
        }
        // Three: the last, and a batchnorm of as many channels goes along another axis.
        let mut first = inner_product("ip", XY, [6, 8], has_bias);
        first.output_tensor = vec![StatedShape { rank: 3, dim_value: Vec::new() }];
        let last = [scale("s", YZ, &[1, 1, 8], &[]), bias("b", YZ, &[1, 1, 8]), scale("s", YZ, &[1], &[1])];
        let others = [batchnorm("bn", YZ, 8), scale("s", YZ, &[8], &[8]), bias("b", YZ, &[8, 1, 1])];
        for (next, folds) in last.iter().map(|next| (next, 1)).chain(others.iter().map(|next| (next, 0))) {
            assert_eq!(folded(&pair(first.clone(), next.clone()), &[8, 2, 6]).1, folds, "{:?}", next.layer);
            let first = batched_matmul("mm", XY, [6, 8], has_bias);
            assert_eq!(folded(&pair(first, next.clone()), &[8, 2, 6]).1, folds, "{:?}", next.layer);
        }
    }
}

/// Without a stated rank, and where arrays may have any, nothing proves the axis of an inner product.
#[test]
fn an_unknown_rank_is_no_proof() {
    let layers = vec![inner_product("ip", XY, [6, 8], true), batchnorm("bn", YZ, 8)];
    let mut exact = network(layers.clone());
    exact.array_input_shape_mapping = proto::NeuralNetworkMultiArrayShapeMapping::ExactArrayMapping as i32;
    assert_kept(&Model::from_proto(described(Type::NeuralNetwork(exact), &["x"], &["z"])), FoldReason::Shape);
    // A layer that may have made another rank of it.
    let others = [vec![copy("copy", ("x", "w"))], layers].concat();
    assert_kept(&model(others, &["x"], &["z"]), FoldReason::Shape);
}

#[test]
fn three_dimensional_convolutions_take_up_single_values() {
    let variants: [&dyn Fn(&mut proto::Convolution3DLayerParams); 4] =
        [&|_| {}, &|p| (p.n_groups, p.has_bias) = (2, true), &|p| p.is_deconvolution = true, &|p| {
            (p.is_deconvolution, p.n_groups, p.stride_depth) = (true, 2, 2)
        }];
    for change in variants {
        let conv = convolution3d("conv", XY, [2, 4], change);
        for next in [scale("s", YZ, &[1], &[1]), scale("s", YZ, &[1, 1, 1], &[]), bias("b", YZ, &[1])] {
            assert_eq!(folded(&pair(conv.clone(), next), &[1, 2, 3, 4, 5]).1, 1);
        }
        // These go along the depth.
        for next in [batchnorm("bn", YZ, 4), scale("s", YZ, &[4], &[]), bias("b", YZ, &[4, 1, 1])] {
            assert_kept(&pair(conv.clone(), next), FoldReason::Shape);
        }
    }
}

#[test]
fn a_chain_folds_to_its_end() {
    let chain = |first: NeuralNetworkLayer| {
        vec![
            first,
            batchnorm("bn", ("y", "b"), 8),
            scale("scale", ("b", "c"), &[8], &[]),
            bias("bias", ("c", "d"), &[1]),
            batchnorm("bn2", ("d", "z"), 8),
        ]
    };
    for conv in convolutions() {
        let (model, folds) = folded(&model(chain(conv), &["x"], &["z"]), &[1, 4, 5, 6]);
        assert_eq!((folds, layers_of(&model).len()), (4, 1));
    }
    // A second batchnorm is not folded into the first, but takes up what follows it.
    let (model, folds) = folded(
        &model([chain(relu("relu", XY)), vec![scale("last", ("z", "end"), &[8], &[8])]].concat(), &["x"], &["end"]),
        &[1, 8, 2, 2],
    );
    let names: Vec<_> = layers_of(&model).iter().map(|layer| &layer.name[..]).collect();
    assert_eq!((folds, &names[..]), (3, &["relu", "bn", "bn2"][..]));
}

/// In a time that grows with the number of layers, not with its square: that would take minutes.
#[test]
fn long_chains_fold() {
    const LAYERS: usize = 10_000;
    let mut layers = vec![convolution("conv", ("x", "0"), [4, 8], |_| {})];
    for index in 1..LAYERS {
        let (input, output) = ((index - 1).to_string(), index.to_string());
        layers.push(bias(&format!("bias{index}"), (&input, &output), &[8]));
    }
    let end = (LAYERS - 1).to_string();
    let (model, folds) = folded(&model(layers, &["x"], &[&end]), &[1, 4, 3, 3]);
    assert_eq!((folds, layers_of(&model).len()), (LAYERS - 1, 1));
    // The same number of layers, a short chain each.
    let mut layers = Vec::new();
    for index in 0..LAYERS / 2 {
        let [a, b, c] = [0, 1, 2].map(|step| (2 * index + step).to_string());
        layers.push(convolution(&format!("conv{index}"), (&a, &b), [1, 1], |_| {}));
        layers.push(batchnorm(&format!("bn{index}"), (&b, &c), 1));
    }
    let report = fold(&networks::model(layers, &["0"], &[&LAYERS.to_string()])).unwrap().report;
    assert_eq!(report.folds.len(), LAYERS / 2);
}

#[test]
fn half_precision_folds_into_float32() {
    let first = convolution("conv", XY, [4, 8], |p| p.has_bias = true);
    for next in followers() {
        for (first, next) in [
            (all_halved(first.clone()), next.clone()),
            (first.clone(), all_halved(next.clone())),
            (all_halved(first.clone()), all_halved(next.clone())),
        ] {
            let (model, folds) = folded(&pair(first, next), &[1, 4, 3, 3]);
            assert_eq!(folds, 1);
            let Some(Layer::Convolution(params)) = &layers_of(&model)[0].layer else { panic!() };
            for (params, len) in [(&params.weights, 8 * 4 * 9), (&params.bias, 8)] {
                let params = params.as_ref().unwrap();
                assert_eq!((params.float_value.len(), params.float16_value.len()), (len, 0));
            }
        }
    }
    // The weights of a batchnorm agree in their type, those that are not changed too; so do those of a scale.
    let first = all_halved(batchnorm("bn", XY, 8));
    let (model, _) = folded(&pair(first, bias("bias", YZ, &[8])), &[1, 8, 2, 2]);
    let Some(Layer::Batchnorm(params)) = &layers_of(&model)[0].layer else { panic!() };
    for params in [&params.gamma, &params.beta, &params.mean, &params.variance] {
        assert_eq!(params.as_ref().unwrap().float_value.len(), 8);
    }
    let first = all_halved(scale("scale", XY, &[8], &[8]));
    let (model, _) = folded(&pair(first, bias("bias", YZ, &[8])), &[1, 8, 2, 2]);
    let Some(Layer::Scale(params)) = &layers_of(&model)[0].layer else { panic!() };
    assert_eq!(params.scale.as_ref().unwrap().float_value.len(), 8);
}

/// Zero stands for Core ML's default.
#[test]
fn an_epsilon_of_zero_is_the_default() {
    let mut bn = batchnorm("bn", YZ, 8);
    if let Some(Layer::Batchnorm(params)) = &mut bn.layer {
        params.epsilon = 0.0;
        params.variance = Some(WeightParams::from_floats(&[0.0, 1e-5, 1.0, 2.0, 0.0, 1e-7, 1.0, 3.0]));
    }
    assert_eq!(folded(&pair(convolution("conv", XY, [4, 8], |_| {}), bn), &[1, 4, 3, 3]).1, 1);
}

#[test]
fn weights_that_only_gain_a_bias_are_shared() {
    let before = pair(convolution("conv", XY, [4, 8], |_| {}), bias("bias", YZ, &[8]));
    let (after, _) = folded(&before, &[1, 4, 3, 3]);
    let weights = |model: &Model| match &layers_of(model)[0].layer {
        Some(Layer::Convolution(params)) => params.weights.as_ref().unwrap().float_value.as_le_bytes().as_ptr(),
        other => panic!("{other:?}"),
    };
    assert_eq!(weights(&before), weights(&after));
}

#[test]
fn a_blob_that_others_need_stays() {
    let conv = || convolution("conv", XY, [4, 4], |_| {});
    let bn = || batchnorm("bn", YZ, 4);
    let with = |more: Vec<NeuralNetworkLayer>, outputs: &[&str]| {
        model([vec![conv()], more, vec![bn()]].concat(), &["x", "flag"], outputs)
    };
    assert_kept(&with(vec![relu("relu", ("y", "r"))], &["z", "r"]), FoldReason::ReadElsewhere);
    assert_kept(&with(vec![], &["z", "y"]), FoldReason::Output);
    let before = [vec![copy("copy", ("x", "y"))], vec![conv(), bn()]].concat();
    assert_kept(&model(before, &["x"], &["z"]), FoldReason::WrittenTwice);
    // Overwritten in between: the second layer does not follow the first.
    let report = fold(&with(vec![copy("copy", ("x", "y"))], &["z"])).unwrap().report;
    assert_eq!((report.folds.len(), report.not_folded.len()), (0, 0));
    // Read and written inside a branch.
    let reader = branch("if", "flag", vec![relu("relu", ("y", "r"))], vec![copy("copy", ("x", "r"))]);
    assert_kept(&with(vec![reader], &["z", "r"]), FoldReason::ReadElsewhere);
    let writer = branch("if", "flag", vec![relu("relu", ("x", "y"))], vec![]);
    assert_kept(&with(vec![writer], &["z"]), FoldReason::WrittenTwice);
    // The model's own input.
    assert_kept(&model(vec![conv(), bn()], &["x", "y"], &["z"]), FoldReason::WrittenTwice);
    // In place: the second layer overwrites what it reads.
    let in_place = vec![conv(), batchnorm("bn", ("y", "y"), 4), relu("relu", YZ)];
    assert_kept(&model(in_place, &["x"], &["z"]), FoldReason::WrittenTwice);
    // The joined layer would read and write the same blob.
    let circle = vec![copy("copy", ("in", "x")), conv(), batchnorm("bn", ("y", "x"), 4)];
    assert_kept(&model(circle, &["in"], &["x"]), FoldReason::InputOverwritten);
}

#[test]
fn training_and_labels_keep_their_blobs() {
    let layers = || vec![inner_product("ip", XY, [4, 8], true), scale("scale", YZ, &[8], &[])];
    let classifier = |name: &str| {
        let classifier = NeuralNetworkClassifier {
            layers: layers(),
            label_probability_layer_name: name.to_owned(),
            ..Default::default()
        };
        Model::from_proto(described(Type::NeuralNetworkClassifier(classifier), &["x"], &["z"]))
    };
    assert_kept(&classifier("y"), FoldReason::Output);
    // Should the name mean a layer.
    assert_kept(&classifier("ip"), FoldReason::Output);
    assert_kept(&classifier("scale"), FoldReason::Output);
    assert_eq!(fold(&classifier("z")).unwrap().report.folds.len(), 1);
    let loss = MeanSquaredErrorLossLayer { input: "y".to_owned(), target: "t".to_owned() };
    let loss = loss_layer::LossLayerType::MeanSquaredErrorLossLayer(loss);
    let loss = LossLayer { name: "loss".to_owned(), loss_layer_type: Some(loss) };
    let update = NetworkUpdateParameters { loss_layers: vec![loss], ..Default::default() };
    let trained = proto::NeuralNetwork { update_params: Some(update), ..network(layers()) };
    assert_kept(&Model::from_proto(described(Type::NeuralNetwork(trained), &["x"], &["z"])), FoldReason::Output);
}

/// The input of the first layer must be the same in the place of the second.
#[test]
fn an_overwritten_input_keeps_the_layers_apart() {
    let layers = |between: Vec<NeuralNetworkLayer>| {
        let ends = (convolution("conv", ("a", "y"), [4, 4], |_| {}), batchnorm("bn", YZ, 4));
        let first = vec![relu("start", ("x", "a")), ends.0];
        model([first, between, vec![ends.1, add("sum", ("z a", "end"))]].concat(), &["x", "flag"], &["end"])
    };
    let overwrites = || copy("overwrite", ("x", "a"));
    assert_kept(&layers(vec![overwrites()]), FoldReason::InputOverwritten);
    assert_kept(&layers(vec![branch("if", "flag", vec![], vec![overwrites()])]), FoldReason::InputOverwritten);
    assert_eq!(folded(&layers(vec![relu("other", ("a", "b"))]), &[1, 4, 3, 3]).1, 1);
}

/// The output of the second layer may have been another blob before: the joined layer writes it where the second did.
#[test]
fn an_output_that_is_written_before_keeps_its_value_until_then() {
    let layers = vec![
        relu("early", ("x", "z")),
        convolution("conv", XY, [4, 4], |_| {}),
        copy("use", ("z", "early")),
        batchnorm("bn", YZ, 4),
        add("sum", ("z early", "end")),
    ];
    assert_eq!(folded(&model(layers, &["x"], &["end"]), &[1, 4, 3, 3]).1, 1);
}

#[test]
fn layers_that_must_stay_as_they_are() {
    let conv = || convolution("conv", XY, [4, 8], |_| {});
    let bn = |change: &dyn Fn(&mut proto::BatchnormLayerParams)| {
        let mut layer = batchnorm("bn", YZ, 8);
        let Some(Layer::Batchnorm(params)) = &mut layer.layer else { unreachable!() };
        change(params);
        layer
    };
    let kept = |second, reason| assert_kept(&pair(conv(), second), reason);
    kept(bn(&|p| p.instance_normalization = true), FoldReason::RunTimeStatistics);
    kept(bn(&|p| p.compute_mean_var = true), FoldReason::RunTimeStatistics);
    kept(bn(&|p| p.gamma = None), FoldReason::Weights);
    kept(bn(&|p| p.mean = Some(WeightParams::default())), FoldReason::Weights);
    kept(bn(&|p| p.variance = Some(around("short", 7, 1.0, 0.5))), FoldReason::Weights);
    kept(bn(&|p| p.gamma.as_mut().unwrap().is_updatable = true), FoldReason::Updatable);
    kept(batchnorm("bn", YZ, 4), FoldReason::Shape);
    kept(scale("scale", YZ, &[1, 3, 3], &[]), FoldReason::Shape);
    kept(scale("scale", YZ, &[8], &[8, 3, 3]), FoldReason::Shape);
    kept(bias("bias", YZ, &[8, 3, 3]), FoldReason::Shape);
    kept(bias("bias", YZ, &[1, 1, 8]), FoldReason::Shape);
    let of_two = NeuralNetworkLayer { input: vec!["y".into(), "x".into()], ..bn(&|_| {}) };
    kept(of_two, FoldReason::Connections);

    let change = |change: &dyn Fn(&mut NeuralNetworkLayer)| {
        let mut layer = conv();
        change(&mut layer);
        pair(layer, bn(&|_| {}))
    };
    assert_kept(&change(&|layer| layer.is_updatable = true), FoldReason::Updatable);
    assert_kept(&change(&|layer| layer.input.push("weights".into())), FoldReason::DynamicWeights);
    assert_kept(&change(&|layer| layer.output.push("more".into())), FoldReason::Connections);
    assert_kept(
        &change(&|layer| {
            if let Some(Layer::Convolution(params)) = &mut layer.layer {
                params.weights = None;
            }
        }),
        FoldReason::Weights,
    );
    // Custom layers are nobody's business but their own.
    let custom = |name, io| layer(name, io, Layer::Custom(CustomLayerParams::default()));
    for pair in [pair(custom("custom", XY), batchnorm("bn", YZ, 8)), pair(conv(), custom("custom", YZ))] {
        let report = fold(&pair).unwrap().report;
        assert_eq!((report.folds.len(), report.not_folded.len()), (0, 0));
    }
}

#[test]
fn quantized_weights_stay() {
    let conv = convolution("conv", XY, [4, 8], |_| {});
    let bn = batchnorm("bn", YZ, 8);
    let quantized = |layer: NeuralNetworkLayer| {
        let config = QuantConfig::linear(8).unwrap().with_growth(true).with_biases(Biases::AsWeights);
        layers_of(&quantize_weights(&model(vec![layer], &[], &[]), &config).unwrap().model)[0].clone()
    };
    assert_kept(&pair(quantized(conv.clone()), bn.clone()), FoldReason::Quantized);
    assert_kept(&pair(conv, quantized(bn)), FoldReason::Quantized);
}

/// A layer that quantizes its activations at run time never gains a bias.
#[test]
fn int8_activations_gain_no_bias() {
    let mut first = inner_product("ip", XY, [6, 8], false);
    if let Some(Layer::InnerProduct(params)) = &mut first.layer {
        params.int8_dynamic_quantize = true;
    }
    assert_kept(&pair(first.clone(), bias("bias", YZ, &[8])), FoldReason::Int8Bias);
    assert_kept(&pair(first.clone(), batchnorm("bn", YZ, 8)), FoldReason::Int8Bias);
    let (model, folds) = folded(&pair(first, scale("scale", YZ, &[8], &[])), &[1, 1, 6, 1, 1]);
    let Some(Layer::InnerProduct(params)) = &layers_of(&model)[0].layer else { panic!() };
    assert_eq!((folds, params.has_bias), (1, false));
}

#[test]
fn values_beyond_float32_are_not_folded() {
    let conv = convolution("conv", XY, [4, 8], |_| {});
    let statistics = |field: &dyn Fn(&mut proto::BatchnormLayerParams) -> &mut Option<WeightParams>, value: f32| {
        let mut layer = batchnorm("bn", YZ, 8);
        let Some(Layer::Batchnorm(params)) = &mut layer.layer else { unreachable!() };
        let values = field(params).as_mut().unwrap();
        let mut floats = values.float_value.to_vec();
        floats[5] = value;
        *values = WeightParams::from_floats(&floats);
        layer
    };
    for bn in [
        statistics(&|p| &mut p.variance, -0.5),
        statistics(&|p| &mut p.variance, f32::NAN),
        statistics(&|p| &mut p.gamma, f32::INFINITY),
        statistics(&|p| &mut p.beta, f32::NAN),
    ] {
        assert_kept(&pair(conv.clone(), bn), FoldReason::NonFinite);
    }
    // Each of the two is finite, their product is not; the rest of the chain is folded.
    let large = |name, io, value| {
        let mut layer = scale(name, io, &[1], &[]);
        let Some(Layer::Scale(params)) = &mut layer.layer else { unreachable!() };
        params.scale = Some(WeightParams::from_floats(&[value]));
        layer
    };
    let chain = vec![conv, large("large", ("y", "a"), 1e30), large("larger", ("a", "z"), 1e30)];
    let report = fold(&model(chain, &["x"], &["z"])).unwrap().report;
    assert_eq!((report.folds.len(), report.not_folded[0].reason), (1, FoldReason::NonFinite));
}

#[test]
fn networks_fold_inside_branches_loops_and_pipelines() {
    let inside = |io: Io<'_>, prefix: &str| {
        let between = format!("{prefix}.y");
        vec![
            convolution(&format!("{prefix}.conv"), (io.0, &between), [4, 4], |_| {}),
            batchnorm(&format!("{prefix}.bn"), (&between, io.1), 4),
        ]
    };
    let mut layers = inside(("x", "a"), "outer");
    layers.push(branch("if", "flag", inside(("a", "b"), "if"), inside(("a", "b"), "else")));
    // The body overwrites the blob around it, and leaves in the middle of a pair.
    let leave =
        branch("leave", "flag", vec![layer("break", ("", ""), Layer::LoopBreak(LoopBreakLayerParams {}))], vec![]);
    let mut body = inside(("b", "c"), "body");
    body.insert(1, leave);
    body.push(copy("again", ("c", "b")));
    let repeat = LoopLayerParams { max_loop_iterations: 3, body_network: Some(network(body)), ..Default::default() };
    layers.push(copy("before", ("a", "c")));
    layers.push(layer("loop", ("", ""), Layer::Loop(repeat)));
    let inner = model(layers, &["x", "flag"], &["b", "c"]);
    let (_, folds) = folded(&inner, &[1, 4, 3, 3]);
    assert_eq!(folds, 4);

    let member = inner.into_proto();
    let pipeline = Pipeline { models: vec![member.clone(), member], names: Vec::new() };
    let pipeline = Model::from_proto(described(Type::Pipeline(pipeline), &["x", "flag"], &["b"]));
    let result = fold(&pipeline).unwrap();
    let networks: Vec<_> = result.report.folds.iter().map(|fold| &fold.network[..]).collect();
    assert_eq!(networks.len(), 8);
    assert_eq!(networks[..2], ["model/pipeline[0]", "model/pipeline[0]/if/ifBranch"]);
    assert_eq!(networks[7], "model/pipeline[1]/loop/bodyNetwork");
}

#[test]
fn folding_twice_changes_nothing() {
    let chain = vec![
        convolution("conv", XY, [4, 8], |p| p.has_bias = true),
        batchnorm("bn", YZ, 8),
        relu("relu", ("z", "r")),
        batchnorm("bn2", ("r", "s"), 8),
        bias("bias", ("s", "end"), &[8]),
    ];
    let once = fold(&model(chain, &["x"], &["end"])).unwrap();
    let twice = fold(&once.model).unwrap();
    assert_eq!((once.report.folds.len(), twice.report.folds.len()), (2, 0));
    assert!(once.model.to_bytes() == twice.model.to_bytes());
}

#[test]
fn quantizing_folds_below_16_bits_unless_told_otherwise() {
    let before = pair(convolution("conv", XY, [4, 8], |_| {}), batchnorm("bn", YZ, 8));
    let folds = |config: QuantConfig| {
        let result = quantize_weights(&before, &config).unwrap();
        (result.report.folds.folds.len(), result.model.layers().len())
    };
    let linear = || QuantConfig::linear(4).unwrap();
    assert_eq!(folds(linear()), (1, 1));
    assert_eq!(folds(QuantConfig::kmeans_lut(4).unwrap()), (1, 1));
    assert_eq!(folds(linear().with_fold(false)), (0, 2));
    assert_eq!(folds(QuantConfig::float16()), (0, 2));
    assert_eq!(folds(QuantConfig::dequantize()), (0, 2));
    assert_eq!(folds(QuantConfig::float16().with_fold(true)), (1, 1));
    // What is done decides, not which constructor says so; a rule that makes codes counts.
    assert_eq!(folds(QuantConfig::custom(Float16)), (0, 2));
    assert_eq!(folds(QuantConfig::custom(Dequantize)), (0, 2));
    assert_eq!(folds(QuantConfig::custom(KmeansLut::new(Nbits::FOUR))), (1, 1));
    let head = |weight: &WeightInfo<'_>| weight.layer_name == "conv";
    assert_eq!(folds(QuantConfig::float16().with_rule(head, KmeansLut::new(Nbits::FOUR))), (1, 1));
    assert_eq!(folds(linear().with_rule(head, Float16)), (1, 1));
    // What is quantized is the folded weight.
    let folded = fold(&before).unwrap().model;
    let (one, other) = (quantize_weights(&before, &linear()).unwrap(), quantize_weights(&folded, &linear()).unwrap());
    assert!(one.model.to_bytes() == other.model.to_bytes());
    assert_eq!(one.report.weights, other.report.weights);
}

/// A mixed float16 and float32 source becomes n-bit like any other.
#[test]
fn half_precision_sources_are_folded_and_quantized() {
    let mut first = convolution("conv", XY, [4, 8], |p| p.has_bias = true);
    if let Some(Layer::Convolution(params)) = &mut first.layer {
        halved(&mut params.weights);
    }
    let before = pair(first, all_halved(batchnorm("bn", YZ, 8)));
    let result = quantize_weights(&before, &QuantConfig::linear(8).unwrap()).unwrap();
    let outcomes: Vec<_> = result.report.weights.iter().map(|weight| weight.outcome).collect();
    assert_eq!(outcomes, [Outcome::Converted, Outcome::Converted]);
    let twice = quantize_weights(&result.model, &QuantConfig::linear(8).unwrap()).unwrap();
    let outcomes: Vec<_> = twice.report.weights.iter().map(|weight| weight.outcome).collect();
    assert_eq!(outcomes, [Outcome::Kept(Reason::AlreadyQuantized), Outcome::Kept(Reason::AlreadyStored)]);
}

#[test]
fn the_report_names_both_layers() {
    let before = model(
        vec![convolution("conv", XY, [4, 8], |_| {}), batchnorm("bn", YZ, 8), bias("late", ("z", "end"), &[8, 3, 3])],
        &["x"],
        &["end"],
    );
    let report = fold(&before).unwrap().report;
    let fold = &report.folds[0];
    assert_eq!(
        (&fold.layer[..], fold.layer_type, &fold.into[..], fold.into_type),
        ("bn", "batchnorm", "conv", "convolution")
    );
    assert_eq!((report.bytes_before, report.bytes_after), (4 * (8 * 4 * 9 + 4 * 8), 4 * (8 * 4 * 9 + 8)));
    let folded = "folded model: batchnorm layer \"bn\" into convolution layer \"conv\"\n";
    let not_folded = "not folded model: bias layer \"late\" into convolution layer \"conv\": \
                      it does not provably work along the output channels\n";
    let sum = "1 of 2 layers folded, 1280 -> 1184 bytes of weights";
    assert_eq!(format!("{report}"), format!("{folded}{sum}"));
    assert_eq!(format!("{report:#}"), format!("{folded}{not_folded}{sum}"));
    let quantized = quantize_weights(&before, &QuantConfig::linear(8).unwrap()).unwrap().report;
    assert!(format!("{quantized}").starts_with(&format!("{folded}{sum}\nlayer ")));
    assert!(format!("{quantized:#}").starts_with(&format!("{folded}{not_folded}{sum}\nlayer ")));
}

#[test]
fn a_model_without_a_network_has_nothing_to_fold() {
    let other = described(Type::Identity(proto::Identity {}), &["x"], &["x"]);
    assert!(matches!(fold(&Model::from_proto(other)), Err(Error::NoNetwork { kind: "identity" })));
}

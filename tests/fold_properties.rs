//! Random small networks with everything that keeps layers apart: blobs with several readers, outputs in the middle, names
//! that are written twice, branches that read and write the blobs around them. Folding must change no output, and must
//! fold exactly what a plain restatement of the rules says.

mod evaluate;
mod networks;

use std::collections::{BTreeMap, BTreeSet};

use coreml_quant::proto::NeuralNetworkLayer;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::{check, fold};
use evaluate::{Tensor, assert_same};
use networks::*;
use proptest::prelude::*;
use proptest::sample::Index;

const CHANNELS: u64 = 4;
const SHAPE: [usize; 4] = [1, 4, 3, 2];

/// What a layer does. Every blob has the same shape.
#[derive(Clone, Debug)]
enum Kind {
    /// Groups, and whether it is dilated, transposed, has a bias.
    Convolution(u64, bool, bool, bool),
    Batchnorm {
        at_run_time: bool,
    },
    Scale(usize, usize),
    Bias(usize),
    Relu,
    Copy,
    Add(Index),
    /// Networks inside see all blobs around them.
    Branch(Vec<Step>, Vec<Step>),
}

/// A layer: what it does, to the newest blob or to another, and whether its output has a new name, one that is there, or
/// that of its input.
#[derive(Clone, Debug)]
struct Step {
    kind: Kind,
    input: Option<Index>,
    output: Output,
    halved: bool,
    updatable: bool,
    is_output: bool,
}

#[derive(Clone, Debug)]
enum Output {
    New,
    InPlace,
    Again(Index),
}

/// Shapes along the channels, of one value, and of neither kind.
const SHAPES: [&[u64]; 5] = [&[4], &[4, 1, 1], &[1], &[1, 3, 2], &[4, 3, 2]];

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.05)
}

fn simple_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        5 => (prop::sample::select(vec![1, 2, 4]), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(groups, dilated, transposed, bias)| Kind::Convolution(groups, dilated, transposed, bias)),
        4 => rarely().prop_map(|at_run_time| Kind::Batchnorm { at_run_time }),
        3 => (prop::sample::select(vec![0, 0, 1, 2, 3, 4]), prop::sample::select(vec![0, 1, 2, 4, 5, 5]))
            .prop_map(|(scale, bias)| Kind::Scale(scale, bias)),
        3 => prop::sample::select(vec![0, 1, 2, 0, 3]).prop_map(Kind::Bias),
        1 => Just(Kind::Relu),
        1 => Just(Kind::Copy),
        1 => any::<Index>().prop_map(Kind::Add),
    ]
}

fn step(kind: impl Strategy<Value = Kind>) -> impl Strategy<Value = Step> {
    let output = prop_oneof![
        16 => Just(Output::New),
        1 => Just(Output::InPlace),
        1 => any::<Index>().prop_map(Output::Again),
    ];
    let input = prop_oneof![7 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (kind, input, output, prop::bool::weighted(0.2), rarely(), rarely()).prop_map(
        |(kind, input, output, halved, updatable, is_output)| Step {
            kind,
            input,
            output,
            halved,
            updatable,
            is_output,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let inside = || prop::collection::vec(step(simple_kind()), 0..5);
    let kind = prop_oneof![
        12 => simple_kind(),
        1 => (inside(), inside()).prop_map(|(taken, other)| Kind::Branch(taken, other)),
    ];
    prop::collection::vec(step(kind), 1..14)
}

/// Turns steps into layers.
struct Builder {
    layers: usize,
    outputs: BTreeSet<String>,
}

impl Builder {
    /// `blobs` are the names that are there, the newest last.
    fn build(&mut self, steps: &[Step], blobs: &mut Vec<String>) -> Vec<NeuralNetworkLayer> {
        let mut layers = Vec::new();
        for step in steps {
            self.layers += 1;
            let name = format!("layer{}", self.layers);
            let newest = blobs.last().unwrap().clone();
            let input = step.input.as_ref().map_or(newest, |index| index.get(blobs).clone());
            let output = match &step.output {
                Output::New => format!("blob{}", self.layers),
                Output::InPlace => input.clone(),
                Output::Again(index) => index.get(blobs).clone(),
            };
            if let Kind::Branch(taken, other) = &step.kind {
                // What only one of them writes may be missing afterwards.
                let taken = self.build(taken, &mut blobs.clone());
                let other = self.build(other, &mut blobs.clone());
                layers.push(branch(&name, "flag", taken, other));
                continue;
            }
            let io = (&input[..], &output[..]);
            let mut layer = match &step.kind {
                &Kind::Convolution(groups, dilated, transposed, bias) => {
                    convolution(&name, io, [CHANNELS, CHANNELS], |p| {
                        (p.n_groups, p.is_deconvolution, p.has_bias) = (groups, transposed, bias);
                        if dilated {
                            p.dilation_factor = vec![2, 1];
                        }
                    })
                }
                Kind::Batchnorm { at_run_time } => {
                    let mut layer = batchnorm(&name, io, CHANNELS);
                    if let Some(Layer::Batchnorm(params)) = &mut layer.layer {
                        params.compute_mean_var = *at_run_time;
                    }
                    layer
                }
                &Kind::Scale(shape, shape_bias) => {
                    scale(&name, io, SHAPES[shape], SHAPES.get(shape_bias).copied().unwrap_or_default())
                }
                &Kind::Bias(shape) => bias(&name, io, SHAPES[shape]),
                Kind::Relu => relu(&name, io),
                Kind::Copy => copy(&name, io),
                Kind::Add(other) => add(&name, (&format!("{input} {}", other.get(blobs)), &output)),
                Kind::Branch(..) => unreachable!(),
            };
            if step.halved
                && matches!(step.kind, Kind::Convolution(..) | Kind::Batchnorm { .. } | Kind::Scale(..) | Kind::Bias(_))
            {
                layer = all_halved(layer);
            }
            layer.is_updatable = step.updatable;
            layers.push(layer);
            if step.is_output {
                self.outputs.insert(output.clone());
            }
            blobs.retain(|blob| *blob != output);
            blobs.push(output);
        }
        layers
    }
}

/// The rules, restated for these networks without regard to speed: how many folds are to be made. `everything` has the
/// layers of all networks.
fn expected_folds(
    layers: &[NeuralNetworkLayer],
    everything: &[NeuralNetworkLayer],
    outputs: &BTreeSet<String>,
) -> usize {
    let mut layers = layers.to_vec();
    let mut everything = everything.to_vec();
    let mut folds = 0;
    // Nothing folds into the first layer of such a list, so each turn of the loop takes one away or is the last.
    'again: loop {
        for second in 1..layers.len() {
            let between = layers[second].input.first().cloned().unwrap_or_default();
            let Some(first) = layers[..second].iter().rposition(|layer| layer.output.contains(&between)) else {
                continue;
            };
            if may_fold(&layers, &everything, outputs, first, second) {
                let consumer = layers.remove(second);
                let mut joined = layers.remove(first);
                // It counts for everything: replace the two there as well.
                everything.retain(|layer| layer.name != consumer.name);
                joined.output.clone_from(&consumer.output);
                if matches!(joined.layer, Some(Layer::Scale(_))) {
                    joined = remember_shape(joined, &consumer);
                }
                for layer in everything.iter_mut().filter(|layer| layer.name == joined.name) {
                    layer.clone_from(&joined);
                }
                layers.insert(second - 1, joined);
                folds += 1;
                continue 'again;
            }
        }
        break;
    }
    for layer in &layers {
        if let Some(Layer::Branch(params)) = &layer.layer {
            for inner in [&params.if_branch, &params.else_branch].into_iter().flatten() {
                folds += expected_folds(&inner.layers, &everything, outputs);
            }
        }
    }
    folds
}

/// A scale layer takes the shape of the bias that was folded into it, unless its own has one of channels.
fn remember_shape(mut joined: NeuralNetworkLayer, consumer: &NeuralNetworkLayer) -> NeuralNetworkLayer {
    if let (Some(Layer::Scale(params)), Some(Layer::Bias(bias))) = (&mut joined.layer, &consumer.layer)
        && !(params.has_bias && is_along_channels(&params.shape_bias))
    {
        params.has_bias = true;
        params.shape_bias.clone_from(&bias.shape);
    }
    joined
}

/// All layers, those of branches too.
fn flattened(layers: &[NeuralNetworkLayer]) -> Vec<NeuralNetworkLayer> {
    let mut all = Vec::new();
    for layer in layers {
        all.push(layer.clone());
        if let Some(Layer::Branch(params)) = &layer.layer {
            for inner in [&params.if_branch, &params.else_branch].into_iter().flatten() {
                all.extend(flattened(&inner.layers));
            }
        }
    }
    all
}

fn is_along_channels(shape: &[u64]) -> bool {
    matches!(shape, [4] | [4, 1, 1])
}

fn is_one_value(shape: &[u64]) -> bool {
    matches!(shape, [1] | [1, 1, 1])
}

fn may_fold(
    layers: &[NeuralNetworkLayer],
    everything: &[NeuralNetworkLayer],
    outputs: &BTreeSet<String>,
    first: usize,
    second: usize,
) -> bool {
    let fits = |shape: &[u64]| is_along_channels(shape) || is_one_value(shape);
    let (one, other) = (&layers[first], &layers[second]);
    let kinds_fit = match (one.layer.as_ref().unwrap(), other.layer.as_ref().unwrap()) {
        (Layer::Convolution(_), Layer::Batchnorm(params)) => !params.compute_mean_var,
        (Layer::Convolution(_) | Layer::Batchnorm(_), Layer::Scale(params)) => {
            fits(&params.shape_scale) && (!params.has_bias || fits(&params.shape_bias))
        }
        (Layer::Convolution(_) | Layer::Batchnorm(_), Layer::Bias(params)) => fits(&params.shape),
        (Layer::Scale(scale), Layer::Bias(params)) => {
            fits(&params.shape) && (!scale.has_bias || fits(&scale.shape_bias))
        }
        _ => false,
    };
    let between = &one.output[0];
    let reads = everything.iter().flat_map(|layer| &layer.input).filter(|name| *name == between).count();
    let writes = everything.iter().flat_map(|layer| &layer.output).filter(|name| *name == between).count();
    let is_input = ["x", "flag"].contains(&&between[..]);
    let overwritten = flattened(&layers[first + 1..second]).iter().any(|layer| layer.output.contains(&one.input[0]));
    kinds_fit
        && reads == 1
        && writes == 1
        && !is_input
        && !outputs.contains(between)
        && !overwritten
        && one.input[0] != other.output[0]
        && !one.is_updatable
        && !other.is_updatable
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn folding_changes_no_output_and_folds_what_it_should(steps in steps()) {
        let mut builder = Builder { layers: 0, outputs: BTreeSet::new() };
        let mut blobs = vec!["x".to_owned()];
        let layers = builder.build(&steps, &mut blobs);
        let mut outputs = builder.outputs;
        outputs.insert(blobs.pop().unwrap());
        let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let expected = expected_folds(&layers, &flattened(&layers), &outputs);
        let original = model(layers, &["x", "flag"], &names);
        let result = fold(&original).unwrap();
        for flag in [0.0, 1.0] {
            let inputs = BTreeMap::from([
                ("x".to_owned(), Tensor::noise(&SHAPE, 5)),
                ("flag".to_owned(), Tensor::new(&[1], vec![flag])),
            ]);
            assert_same(&original, &result.model, &inputs);
        }
        prop_assert_eq!(result.report.folds.len(), expected, "{:#}", result.report);
        prop_assert!(check(&result.model).len() <= check(&original).len());
    }
}

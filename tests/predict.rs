//! The executor's interface: what goes in, what comes out, what is refused; pipelines and their members.

mod common;
mod evaluate;
mod networks;

use std::collections::BTreeMap;

use common::digits;
use coreml_quant::Model;
use coreml_quant::predict::{
    ColorOrder, Features, Image, LayerError, Precision, PredictError, Predictor, Tensor, Value,
};
use coreml_quant::proto::array_feature_type::ArrayDataType;
use coreml_quant::proto::feature_type::Type as Feature;
use coreml_quant::proto::image_feature_type::ColorSpace;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::neural_network_preprocessing::Preprocessor;
use coreml_quant::proto::tree_ensemble_parameters::TreeNode;
use coreml_quant::proto::tree_ensemble_parameters::tree_node::{EvaluationInfo, TreeNodeBehavior};
use coreml_quant::proto::{self, *};
use ndarray::{Array, IxDyn, array};

fn described(name: &str, kind: Feature) -> FeatureDescription {
    FeatureDescription {
        name: name.to_owned(),
        r#type: Some(FeatureType { r#type: Some(kind), is_optional: false }),
        ..Default::default()
    }
}

fn array_feature(name: &str, shape: &[i64]) -> FeatureDescription {
    let array =
        ArrayFeatureType { shape: shape.to_vec(), data_type: ArrayDataType::Float32 as i32, ..Default::default() };
    described(name, Feature::MultiArrayType(array))
}

fn model(kind: Type, input: Vec<FeatureDescription>, output: Vec<FeatureDescription>) -> proto::Model {
    proto::Model {
        specification_version: 5,
        description: Some(ModelDescription { input, output, ..Default::default() }),
        r#type: Some(kind),
        ..Default::default()
    }
}

fn layer(name: &str, inputs: &[&str], outputs: &[&str], kind: Layer) -> NeuralNetworkLayer {
    NeuralNetworkLayer {
        name: name.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        layer: Some(kind),
        ..Default::default()
    }
}

fn network(layers: Vec<NeuralNetworkLayer>) -> NeuralNetwork {
    NeuralNetwork { layers, array_input_shape_mapping: 1, ..Default::default() }
}

/// A network from `x` of a shape to `y`, exact shapes.
fn exact(shape: &[i64], layers: Vec<NeuralNetworkLayer>) -> Model {
    let kind = Type::NeuralNetwork(network(layers));
    Model::from_proto(model(kind, vec![array_feature("x", shape)], vec![array_feature("y", &[])]))
}

fn floats(value: Option<&Value>) -> Vec<f32> {
    match value {
        Some(Value::Array(array)) => array.iter().copied().collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn features_are_checked() {
    let predictor = Predictor::new(&digits()).unwrap();
    let image = || Array::<f32, _>::zeros((1, 8, 8));
    let error = |features: Features| predictor.predict(&features).unwrap_err();
    assert!(matches!(error(Features::new()), PredictError::MissingFeature { name, .. } if name == "image"));
    assert!(
        matches!(error(Features::new().with("image", image()).with("y", 1.0)), PredictError::UnknownFeature { name, .. } if name == "y")
    );
    assert!(matches!(error(Features::new().with("image", "cat")), PredictError::FeatureType { .. }));
    let wrong = Features::new().with("image", Array::<f32, _>::zeros((1, 8, 9)));
    assert!(matches!(error(wrong), PredictError::FeatureShape { found, .. } if found == [1, 8, 9]));
    let outputs = predictor.predict(&Features::new().with("image", image())).unwrap();
    let (Some(Value::Int64(digit)), Some(Value::Int64Dictionary(scores))) =
        (outputs.get("digit"), outputs.get("probabilities"))
    else {
        panic!("{outputs:?}")
    };
    assert!((scores.values().sum::<f64>() - 1.0).abs() < 1e-5);
    assert!(scores.values().all(|score| *score <= scores[digit]));
}

#[test]
fn every_layer_is_seen_and_thread_counts_change_nothing() {
    let predictor = Predictor::new(&digits()).unwrap();
    let features =
        Features::new().with("image", Array::from_shape_fn((1, 8, 8), |(_, y, x)| (y * 3 + x) as f32 / 31.0));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut seen: Vec<(String, Vec<Tensor>)> = Vec::new();
            predictor
                .predict_with(&features, |layer, outputs| seen.push((layer.name.to_string(), outputs.to_vec())))
                .unwrap();
            seen
        })
    };
    let seen = run(1);
    let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, digits().layers().iter().map(|layer| layer.layer.name.as_str()).collect::<Vec<_>>());
    assert_eq!(seen, run(3));
}

#[test]
fn half_precision_rounds_between_layers() {
    let layers = vec![
        layer("a", &["x"], &["a"], Layer::Add(AddLayerParams { alpha: 0.0001 })),
        layer("b", &["a"], &["y"], Layer::Add(AddLayerParams { alpha: -1.0 })),
    ];
    let model = exact(&[1], layers);
    let run = |precision| {
        let predictor = Predictor::new(&model).unwrap().with_precision(precision);
        floats(predictor.predict(&Features::new().with("x", array![1.0_f32])).unwrap().get("y"))[0]
    };
    assert_eq!(run(Precision::Half), 0.0);
    assert!((run(Precision::Single) - 0.0001).abs() < 1e-6);
}

#[test]
fn image_planes_follow_the_models_colours() {
    let scaler = NeuralNetworkImageScaler {
        channel_scale: 2.0,
        blue_bias: 1.0,
        green_bias: 2.0,
        red_bias: 3.0,
        ..Default::default()
    };
    let preprocessing =
        NeuralNetworkPreprocessing { feature_name: "x".to_owned(), preprocessor: Some(Preprocessor::Scaler(scaler)) };
    let kind = Type::NeuralNetwork(NeuralNetwork {
        layers: vec![layer("copy", &["x"], &["y"], Layer::Copy(CopyLayerParams {}))],
        preprocessing: vec![preprocessing],
        ..Default::default()
    });
    let image = ImageFeatureType { width: 2, height: 1, color_space: ColorSpace::Bgr as i32, ..Default::default() };
    let model = model(kind, vec![described("x", Feature::ImageType(image))], vec![array_feature("y", &[3, 1, 2])]);
    let predictor = Predictor::new(&Model::from_proto(model)).unwrap();
    let rgb = Image::from_interleaved(2, 1, ColorOrder::Rgb, vec![10, 20, 30, 40, 50, 60]).unwrap();
    let outputs = predictor.predict(&Features::new().with("x", rgb.clone())).unwrap();
    assert_eq!(outputs.array("y").unwrap().shape(), [3, 1, 2]);
    assert_eq!(floats(outputs.get("y")), [61.0, 121.0, 42.0, 102.0, 23.0, 83.0]);
    let planes = Image::from_planes(2, 1, ColorOrder::Rgb, &[10, 40, 20, 50, 30, 60]).unwrap();
    assert_eq!(planes, rgb);
    let gray = Features::new().with("x", rgb.to_gray());
    assert!(matches!(predictor.predict(&gray), Err(PredictError::FeatureType { .. })));
    let large = Image::from_interleaved(2, 2, ColorOrder::Rgb, vec![0; 12]).unwrap();
    assert!(matches!(predictor.predict(&Features::new().with("x", large)), Err(PredictError::FeatureShape { .. })));
}

#[test]
fn loops_end() {
    // x is doubled until it is 100 or more, at most so many rounds as the loop allows.
    let condition =
        network(vec![layer("less", &["y"], &["goes_on"], Layer::LessThan(LessThanLayerParams { alpha: 100.0 }))]);
    let body = network(vec![
        layer("twice", &["y"], &["doubled"], Layer::Multiply(MultiplyLayerParams { alpha: 2.0 })),
        layer("back", &["doubled"], &["y"], Layer::Copy(CopyLayerParams {})),
    ]);
    let whole = |rounds: u64, factor: f32| {
        let mut body = body.clone();
        body.layers[0].layer = Some(Layer::Multiply(MultiplyLayerParams { alpha: factor }));
        let params = LoopLayerParams {
            max_loop_iterations: rounds,
            condition_var: if rounds == 0 { "goes_on".to_owned() } else { String::new() },
            condition_network: (rounds == 0).then(|| condition.clone()),
            body_network: Some(body),
        };
        let layers = vec![
            layer("start", &["x"], &["y"], Layer::Copy(CopyLayerParams {})),
            layer("loop", &[], &[], Layer::Loop(params)),
        ];
        Predictor::new(&exact(&[1], layers)).unwrap().with_step_limit(1000)
    };
    let three = Features::new().with("x", array![3.0_f32]);
    assert_eq!(floats(whole(0, 2.0).predict(&three).unwrap().get("y")), [192.0]);
    assert_eq!(floats(whole(4, 2.0).predict(&three).unwrap().get("y")), [48.0]);
    assert!(matches!(whole(0, 1.0).predict(&three), Err(PredictError::StepLimit { limit: 1000, .. })));
}

#[test]
fn blobs_must_be_written_and_stay_within_limits() {
    let copy = || Layer::Copy(CopyLayerParams {});
    let error = Predictor::new(&exact(&[1], vec![layer("copy", &["z"], &["y"], copy())])).unwrap_err();
    assert!(matches!(error, PredictError::MissingBlob { blob, .. } if &*blob == "z"));
    let error = Predictor::new(&exact(&[1], vec![layer("copy", &["x"], &["z"], copy())])).unwrap_err();
    assert!(matches!(error, PredictError::MissingOutput { name, .. } if name == "y"));
    let fill = Layer::FillStatic(FillStaticLayerParams { value: 1.0, target_shape: vec![100, 100] });
    let predictor = Predictor::new(&exact(&[1], vec![layer("fill", &[], &["y"], fill)])).unwrap().with_max_values(9999);
    let error = predictor.predict(&Features::new().with("x", array![0.0_f32])).unwrap_err();
    assert!(matches!(error, PredictError::Layer { cause: LayerError::TooLarge { limit: 9999, .. }, .. }), "{error}");
}

#[test]
fn custom_layers_are_the_callers() {
    struct Square;
    impl coreml_quant::predict::CustomLayer for Square {
        fn evaluate(
            &self,
            _: &CustomLayerParams,
            inputs: &[Tensor],
        ) -> Result<Vec<Tensor>, Box<dyn std::error::Error + Send + Sync>> {
            Ok(inputs.iter().map(|input| input.mapv(|value| value * value).into_shared()).collect())
        }
    }
    let custom = Layer::Custom(CustomLayerParams { class_name: "Square".to_owned(), ..Default::default() });
    let model = exact(&[2], vec![layer("square", &["x"], &["y"], custom)]);
    let features = Features::new().with("x", array![3.0_f32, -2.0]);
    let predictor = Predictor::new(&model).unwrap();
    assert_eq!(predictor.unsupported().len(), 1);
    assert!(matches!(
        predictor.predict(&features),
        Err(PredictError::Layer { cause: LayerError::Unsupported { .. }, .. })
    ));
    let predictor = predictor.with_custom_layer("Square", Square);
    assert!(predictor.unsupported().is_empty());
    assert_eq!(floats(predictor.predict(&features).unwrap().get("y")), [9.0, 4.0]);
}

/// A pipeline from `x` to `y`.
fn pipeline(members: Vec<proto::Model>, input: FeatureDescription, output: Vec<FeatureDescription>) -> Predictor {
    let kind = Type::Pipeline(Pipeline { models: members, ..Default::default() });
    Predictor::new(&Model::from_proto(model(kind, vec![input], output))).unwrap()
}

#[test]
fn vectors_pass_through_pipelines() {
    let step =
        |kind: Type, from: &str, to: &str| model(kind, vec![array_feature(from, &[3])], vec![array_feature(to, &[3])]);
    let members = vec![
        step(Type::Scaler(Scaler { shift_value: vec![1.0], scale_value: vec![1.0, 2.0, 3.0] }), "x", "a"),
        step(Type::ArrayFeatureExtractor(ArrayFeatureExtractor { extract_index: vec![2, 0] }), "a", "b"),
        step(Type::Normalizer(Normalizer { norm_type: 2 }), "b", "y"),
    ];
    let predictor = pipeline(members, array_feature("x", &[3]), vec![array_feature("y", &[2])]);
    let outputs = predictor.predict(&Features::new().with("x", array![1.0_f32, 0.0, 0.0])).unwrap();
    // (x + 1) * scale is [2, 2, 3]; the picked ones are [3, 2].
    let norm = 13.0_f32.sqrt();
    assert_eq!(floats(outputs.get("y")), [3.0 / norm, 2.0 / norm]);
}

#[test]
fn members_that_cannot_be_run_have_stand_ins() {
    let vision = Type::VisionFeaturePrint(proto::core_ml_models::VisionFeaturePrint::default());
    let members = vec![model(vision, vec![array_feature("x", &[2])], vec![array_feature("y", &[2])])];
    let predictor = pipeline(members, array_feature("x", &[2]), vec![array_feature("y", &[2])]);
    let features = Features::new().with("x", array![1.0_f32, 2.0]);
    assert!(
        matches!(predictor.predict(&features), Err(PredictError::UnsupportedModel { kind, .. }) if kind == "visionFeaturePrint")
    );
    assert_eq!(predictor.unsupported(), ["model/pipeline[0] (visionFeaturePrint)"]);
    let predictor = predictor.with_stand_in("model/pipeline[0]", |features| {
        Ok(Features::new().with("y", features.array("x").ok_or("no x")?.mapv(|value| -value)))
    });
    assert!(predictor.unsupported().is_empty());
    assert_eq!(floats(predictor.predict(&features).unwrap().get("y")), [-1.0, -2.0]);
}

fn single(kind: Type, input: FeatureDescription, output: FeatureDescription) -> Predictor {
    Predictor::new(&Model::from_proto(model(kind, vec![input], vec![output]))).unwrap()
}

#[test]
fn categories_and_dictionaries() {
    let text = || described("x", Feature::StringType(StringFeatureType {}));
    let words = |words: &[&str]| StringVector { vector: words.iter().map(|&word| word.to_owned()).collect() };
    let encoder = |handle_unknown| {
        let category_type = Some(one_hot_encoder::CategoryType::StringCategories(words(&["a", "b", "c"])));
        Type::OneHotEncoder(OneHotEncoder { output_sparse: false, handle_unknown, category_type })
    };
    let strict = single(encoder(0), text(), array_feature("y", &[3]));
    assert_eq!(floats(strict.predict(&Features::new().with("x", "b")).unwrap().get("y")), [0.0, 1.0, 0.0]);
    let unknown = Features::new().with("x", "z");
    assert!(matches!(strict.predict(&unknown), Err(PredictError::Member { .. })));
    let lenient = single(encoder(1), text(), array_feature("y", &[3]));
    assert_eq!(floats(lenient.predict(&unknown).unwrap().get("y")), [0.0; 3]);

    let mapping = Type::CategoricalMapping(CategoricalMapping {
        mapping_type: Some(categorical_mapping::MappingType::StringToInt64Map(StringToInt64Map {
            map: [("a".to_owned(), 7)].into(),
        })),
        value_on_unknown: Some(categorical_mapping::ValueOnUnknown::Int64Value(-1)),
    });
    let mapping = single(mapping, text(), described("y", Feature::Int64Type(Int64FeatureType {})));
    assert_eq!(mapping.predict(&Features::new().with("x", "a")).unwrap().get("y"), Some(&Value::Int64(7)));
    assert_eq!(mapping.predict(&unknown).unwrap().get("y"), Some(&Value::Int64(-1)));

    let vectorizer =
        Type::DictVectorizer(DictVectorizer { map: Some(dict_vectorizer::Map::StringToIndex(words(&["c", "a"]))) });
    let dictionary = described("x", Feature::DictionaryType(DictionaryFeatureType::default()));
    let vectorizer = single(vectorizer, dictionary, array_feature("y", &[2]));
    let counts: BTreeMap<String, f64> = [("a".to_owned(), 2.0), ("z".to_owned(), 9.0)].into();
    assert_eq!(floats(vectorizer.predict(&Features::new().with("x", counts)).unwrap().get("y")), [0.0, 2.0]);

    let imputer = Type::Imputer(Imputer {
        imputed_value: Some(imputer::ImputedValue::ImputedDoubleArray(DoubleVector { vector: vec![10.0, 20.0] })),
        replace_value: Some(imputer::ReplaceValue::ReplaceDoubleValue(f64::NAN)),
    });
    let imputer = single(imputer, array_feature("x", &[2]), array_feature("y", &[2]));
    let hole = Features::new().with("x", array![1.0_f32, f32::NAN]);
    assert_eq!(floats(imputer.predict(&hole).unwrap().get("y")), [1.0, 20.0]);
}

/// A model that classifies two numbers as "no" or "yes".
fn classifier(kind: Type) -> Predictor {
    let mut model = model(
        kind,
        vec![array_feature("x", &[2])],
        vec![
            described("label", Feature::StringType(StringFeatureType {})),
            described("scores", Feature::DictionaryType(DictionaryFeatureType::default())),
        ],
    );
    let description = model.description.as_mut().unwrap();
    description.predicted_feature_name = "label".to_owned();
    description.predicted_probabilities_name = "scores".to_owned();
    Predictor::new(&Model::from_proto(model)).unwrap()
}

fn no_or_yes() -> StringVector {
    StringVector { vector: vec!["no".to_owned(), "yes".to_owned()] }
}

#[track_caller]
fn assert_classified(predictor: &Predictor, x: [f32; 2], label: &str, yes: f64) {
    let outputs = predictor.predict(&Features::new().with("x", Array::from(x.to_vec()))).unwrap();
    assert_eq!(outputs.get("label"), Some(&Value::String(label.to_owned())));
    let Some(Value::StringDictionary(scores)) = outputs.get("scores") else { panic!("{outputs:?}") };
    assert!((scores["yes"] - yes).abs() < 1e-9 && (scores["no"] + yes - 1.0).abs() < 1e-9, "{scores:?}");
}

#[test]
fn linear_models() {
    let row = |value: &[f64]| glm_classifier::DoubleArray { value: value.to_vec() };
    let logistic = GlmClassifier {
        weights: vec![row(&[1.0, -2.0])],
        offset: vec![0.5],
        class_labels: Some(glm_classifier::ClassLabels::StringClassLabels(no_or_yes())),
        ..Default::default()
    };
    let sigmoid = |value: f64| 1.0 / (1.0 + (-value).exp());
    let predictor = classifier(Type::GlmClassifier(logistic.clone()));
    assert_classified(&predictor, [1.0, 0.0], "yes", sigmoid(1.5));
    assert_classified(&predictor, [0.0, 1.0], "no", sigmoid(-1.5));
    let each = GlmClassifier {
        weights: vec![row(&[1.0, 0.0]), row(&[0.0, 1.0])],
        offset: vec![0.0, 0.0],
        class_encoding: 1,
        ..logistic
    };
    let (a, b) = (sigmoid(2.0), sigmoid(-1.0));
    assert_classified(&classifier(Type::GlmClassifier(each)), [2.0, -1.0], "no", b / (a + b));
    let regressor = GlmRegressor {
        weights: vec![glm_regressor::DoubleArray { value: vec![3.0, 4.0] }],
        offset: vec![-1.0],
        ..Default::default()
    };
    let number = described("y", Feature::DoubleType(DoubleFeatureType {}));
    let regressor = single(Type::GlmRegressor(regressor), array_feature("x", &[2]), number);
    let outputs = regressor.predict(&Features::new().with("x", array![1.0_f32, 2.0])).unwrap();
    assert_eq!(outputs.get("y"), Some(&Value::Double(10.0)));
}

#[test]
fn trees() {
    let leaf = |tree_id, node_id, value| TreeNode {
        tree_id,
        node_id,
        node_behavior: TreeNodeBehavior::LeafNode as i32,
        evaluation_info: vec![EvaluationInfo { evaluation_index: 0, evaluation_value: value }],
        ..Default::default()
    };
    let split = |tree_id, feature, threshold| TreeNode {
        tree_id,
        branch_feature_index: feature,
        branch_feature_value: threshold,
        true_child_node_id: 1,
        false_child_node_id: 2,
        missing_value_tracks_true_child: true,
        ..Default::default()
    };
    let ensemble = TreeEnsembleParameters {
        nodes: vec![
            split(0, 0, 0.5),
            leaf(0, 1, 1.0),
            leaf(0, 2, -1.0),
            split(1, 1, 0.0),
            leaf(1, 1, 0.25),
            leaf(1, 2, 4.0),
        ],
        num_prediction_dimensions: 1,
        base_prediction_value: vec![0.5],
    };
    let regressor = |ensemble: &TreeEnsembleParameters| {
        let kind = Type::TreeEnsembleRegressor(TreeEnsembleRegressor {
            tree_ensemble: Some(ensemble.clone()),
            post_evaluation_transform: 0,
        });
        model(kind, vec![array_feature("x", &[2])], vec![described("y", Feature::DoubleType(DoubleFeatureType {}))])
    };
    let predictor = Predictor::new(&Model::from_proto(regressor(&ensemble))).unwrap();
    let run = |x: [f32; 2]| predictor.predict(&Features::new().with("x", Array::from(x.to_vec()))).unwrap();
    assert_eq!(run([0.5, 1.0]).get("y"), Some(&Value::Double(5.5)));
    assert_eq!(run([0.6, 0.0]).get("y"), Some(&Value::Double(-0.25)));
    assert_eq!(run([f32::NAN, 0.0]).get("y"), Some(&Value::Double(1.75)));
    let kind = Type::TreeEnsembleClassifier(TreeEnsembleClassifier {
        tree_ensemble: Some(ensemble.clone()),
        post_evaluation_transform: 2,
        class_labels: Some(tree_ensemble_classifier::ClassLabels::StringClassLabels(no_or_yes())),
    });
    assert_classified(&classifier(kind), [0.6, 0.0], "no", 1.0 / (1.0 + 0.25_f64.exp()));
    let mut circle = ensemble;
    circle.nodes[0].true_child_node_id = 0;
    assert!(Predictor::new(&Model::from_proto(regressor(&circle))).is_err());
}

#[test]
fn overlapping_boxes_are_dropped() {
    let kind = Type::NonMaximumSuppression(NonMaximumSuppression {
        iou_threshold: 0.5,
        confidence_threshold: 0.2,
        confidence_input_feature_name: "scores".to_owned(),
        coordinates_input_feature_name: "boxes".to_owned(),
        confidence_output_feature_name: "kept".to_owned(),
        coordinates_output_feature_name: "places".to_owned(),
        ..Default::default()
    });
    let inputs = vec![array_feature("scores", &[]), array_feature("boxes", &[])];
    let outputs = vec![array_feature("kept", &[]), array_feature("places", &[])];
    let predictor = Predictor::new(&Model::from_proto(model(kind, inputs, outputs))).unwrap();
    // The first two overlap by 0.9 / 1.1; the last one is not sure enough.
    let scores = array![[0.6_f32, 0.1], [0.1, 0.9], [0.3, 0.2], [0.1, 0.1]];
    let boxes = array![[0.0_f32, 0.0, 1.0, 1.0], [0.1, 0.0, 1.0, 1.0], [5.0, 5.0, 1.0, 1.0], [9.0, 9.0, 1.0, 1.0]];
    let outputs = predictor.predict(&Features::new().with("scores", scores).with("boxes", boxes)).unwrap();
    assert_eq!(outputs.array("kept").unwrap(), array![[0.1, 0.9], [0.3, 0.2]].into_dyn());
    assert_eq!(outputs.array("places").unwrap(), array![[0.1, 0.0, 1.0, 1.0], [5.0, 5.0, 1.0, 1.0]].into_dyn());
}

/// The independent float64 evaluator of the folding tests.
#[test]
fn agrees_with_the_evaluator() {
    let model = digits();
    let predictor = Predictor::new(&model).unwrap();
    for seed in 0..5 {
        let noise = evaluate::Tensor::noise(&[1, 1, 1, 8, 8], seed);
        let values: Vec<f32> = noise.values.iter().map(|&value| value as f32).collect();
        let exact = evaluate::Tensor::new(&noise.shape, values.iter().map(|&value| value.into()).collect());
        let evaluated = evaluate::evaluate(&model, &[("image".to_owned(), exact)].into());
        let features = Features::new().with("image", Array::from_shape_vec(IxDyn(&[1, 8, 8]), values).unwrap());
        let mut compared = 0;
        predictor
            .predict_with(&features, |layer, outputs| {
                if let Some(expected) = evaluated.blobs.get(&*layer.outputs[0]) {
                    let range = expected.magnitude().max(1.0);
                    assert_eq!(outputs[0].len(), expected.values.len(), "{layer}");
                    for (found, expected) in outputs[0].iter().zip(&expected.values) {
                        assert!((f64::from(*found) - expected).abs() <= 1e-5 * range, "{layer}");
                    }
                    compared += 1;
                }
            })
            .unwrap();
        assert!(compared > 0);
    }
}

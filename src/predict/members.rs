//! Models that stand beside networks in pipelines. Numbers are float64.

use std::collections::HashMap;

use super::description::{FeatureInfo, FeatureKind};
use super::error::PredictError;
use super::features::{Features, Value};
use super::network_model::Labels;
use super::ops;
use super::tensor::Tensor;
use crate::format::model_type;
use crate::format::proto::categorical_mapping::{MappingType, ValueOnUnknown};
use crate::format::proto::dict_vectorizer::Map;
use crate::format::proto::glm_classifier::{ClassEncoding, PostEvaluationTransform as ClassifierTransform};
use crate::format::proto::glm_regressor::PostEvaluationTransform as RegressorTransform;
use crate::format::proto::imputer::{ImputedValue, ReplaceValue};
use crate::format::proto::model::Type;
use crate::format::proto::non_maximum_suppression::SuppressionMethod;
use crate::format::proto::normalizer::NormType;
use crate::format::proto::one_hot_encoder::{CategoryType, HandleUnknown};
use crate::format::proto::tree_ensemble_parameters::TreeNode;
use crate::format::proto::tree_ensemble_parameters::tree_node::TreeNodeBehavior;
use crate::format::proto::{self, TreeEnsembleParameters, TreeEnsemblePostEvaluationTransform};
use ndarray::IxDyn;

/// A model that is no network.
#[derive(Debug)]
pub(crate) struct Member {
    kind: &'static str,
    model: Type,
    /// Of a classifier.
    labels: Option<Labels>,
    label_name: String,
    scores_name: String,
    /// The nodes of each tree, by their numbers, and the root's.
    trees: Vec<(HashMap<u64, TreeNode>, u64)>,
}

/// Labels of any of the messages that have them.
macro_rules! labels {
    ($labels:expr, $($of:ident)::+) => {
        match &$labels {
            Some($($of)::+::StringClassLabels(labels)) => Some(Labels::Strings(labels.vector.clone())),
            Some($($of)::+::Int64ClassLabels(labels)) => Some(Labels::Numbers(labels.vector.clone())),
            None => None,
        }
    };
}

/// What is wrong, in words.
type Outcome<T> = Result<T, String>;

impl Member {
    /// `None` for what cannot be run.
    pub(crate) fn new(model: &proto::Model, path: &str) -> Result<Option<Self>, PredictError> {
        let Some(r#type) = &model.r#type else { return Ok(None) };
        let mut trees = None;
        let labels = match r#type {
            Type::GlmClassifier(p) => labels!(p.class_labels, proto::glm_classifier::ClassLabels),
            Type::TreeEnsembleClassifier(p) => {
                trees = p.tree_ensemble.as_ref();
                labels!(p.class_labels, proto::tree_ensemble_classifier::ClassLabels)
            }
            Type::TreeEnsembleRegressor(p) => {
                trees = p.tree_ensemble.as_ref();
                None
            }
            Type::GlmRegressor(_)
            | Type::Scaler(_)
            | Type::Imputer(_)
            | Type::OneHotEncoder(_)
            | Type::FeatureVectorizer(_)
            | Type::ArrayFeatureExtractor(_)
            | Type::Normalizer(_)
            | Type::DictVectorizer(_)
            | Type::Identity(_)
            | Type::CategoricalMapping(_)
            | Type::NonMaximumSuppression(_) => None,
            _ => return Ok(None),
        };
        let kind = model_type(model);
        let trees = match trees {
            Some(ensemble) => {
                plant(ensemble).map_err(|what| PredictError::Member { path: path.to_owned(), kind, what })?
            }
            None => Vec::new(),
        };
        let description = model.description.clone().unwrap_or_default();
        Ok(Some(Self {
            kind,
            model: r#type.clone(),
            labels,
            label_name: description.predicted_feature_name,
            scores_name: description.predicted_probabilities_name,
            trees,
        }))
    }

    pub(crate) fn run(
        &self,
        path: &str,
        inputs: &[FeatureInfo],
        outputs: &[FeatureInfo],
        features: &Features,
    ) -> Result<Features, PredictError> {
        self.outputs(inputs, outputs, features).map_err(|what| PredictError::Member {
            path: path.to_owned(),
            kind: self.kind,
            what,
        })
    }

    fn outputs(&self, inputs: &[FeatureInfo], outputs: &[FeatureInfo], features: &Features) -> Outcome<Features> {
        // All inputs after each other: most of these models take them as one vector.
        let joined = || {
            let mut all = Vec::new();
            for input in inputs {
                all.extend(numbers(find(features, &input.name)?, &input.name)?);
            }
            Ok::<_, String>(all)
        };
        let first = || inputs.first().ok_or("it has no input".to_owned()).and_then(|input| find(features, &input.name));
        let vector = |values: Vec<f64>| as_output(outputs, values);
        match &self.model {
            Type::Scaler(p) => {
                let mut values = joined()?;
                let len = values.len();
                each(&mut values, &p.shift_value, 0.0, len, |value, shift| value + shift)?;
                each(&mut values, &p.scale_value, 1.0, len, |value, scale| value * scale)?;
                vector(values)
            }
            Type::Normalizer(p) => {
                let mut values = joined()?;
                let norm = match p.norm_type() {
                    NormType::LMax => values.iter().fold(0.0, |norm: f64, value| norm.max(value.abs())),
                    NormType::L1 => values.iter().map(|value| value.abs()).sum(),
                    NormType::L2 => values.iter().map(|value| value * value).sum::<f64>().sqrt(),
                };
                if norm > 0.0 {
                    values.iter_mut().for_each(|value| *value /= norm);
                }
                vector(values)
            }
            Type::ArrayFeatureExtractor(p) => {
                let values = joined()?;
                let pick = |&index: &u64| {
                    let value = usize::try_from(index).ok().and_then(|index| values.get(index)).copied();
                    value.ok_or_else(|| format!("extractIndex {index} of {} values", values.len()))
                };
                vector(p.extract_index.iter().map(pick).collect::<Outcome<_>>()?)
            }
            Type::FeatureVectorizer(p) => {
                let mut all = Vec::new();
                for column in &p.input_list {
                    let values = numbers(find(features, &column.input_column)?, &column.input_column)?;
                    if values.len() as u64 != column.input_dimensions {
                        let (name, len, expected) = (&column.input_column, values.len(), column.input_dimensions);
                        return Err(format!("\"{name}\" has {len} values, inputDimensions is {expected}"));
                    }
                    all.extend(values);
                }
                vector(all)
            }
            Type::Identity(_) => {
                let pairs = inputs.iter().zip(outputs);
                pairs.map(|(input, output)| Ok((output.name.clone(), find(features, &input.name)?.clone()))).collect()
            }
            Type::DictVectorizer(p) => {
                let value = first()?;
                let values = match (&p.map, value) {
                    (Some(Map::StringToIndex(keys)), Value::StringDictionary(values)) => {
                        keys.vector.iter().map(|key| values.get(key).copied().unwrap_or(0.0)).collect()
                    }
                    (Some(Map::Int64ToIndex(keys)), Value::Int64Dictionary(values)) => {
                        keys.vector.iter().map(|key| values.get(key).copied().unwrap_or(0.0)).collect()
                    }
                    _ => return Err(format!("the input is {}, a dictionary of its keys' type expected", value.kind())),
                };
                vector(values)
            }
            Type::OneHotEncoder(p) => {
                let value = first()?;
                let (index, len) = match (&p.category_type, value) {
                    (Some(CategoryType::StringCategories(all)), Value::String(value)) => {
                        (all.vector.iter().position(|category| category == value), all.vector.len())
                    }
                    (Some(CategoryType::Int64Categories(all)), value) => {
                        let number = numbers(value, "the category")?.first().copied();
                        (all.vector.iter().position(|&category| Some(category as f64) == number), all.vector.len())
                    }
                    _ => return Err(format!("the input is {}, a category expected", value.kind())),
                };
                if index.is_none() && p.handle_unknown() == HandleUnknown::ErrorOnUnknown {
                    return Err(format!("{value:?} is none of the {len} categories"));
                }
                if p.output_sparse {
                    let sparse = index.map(|index| (index as i64, 1.0)).into_iter().collect();
                    return Ok(named(outputs, Value::Int64Dictionary(sparse)));
                }
                vector((0..len).map(|at| f64::from(u8::from(Some(at) == index))).collect())
            }
            Type::CategoricalMapping(p) => {
                let value = match (&p.mapping_type, first()?) {
                    (Some(MappingType::StringToInt64Map(map)), Value::String(value)) => {
                        map.map.get(value).map(|&value| Value::Int64(value))
                    }
                    (Some(MappingType::Int64ToStringMap(map)), value) => {
                        let number = numbers(value, "the category")?.first().map_or(0, |&value| value as i64);
                        map.map.get(&number).map(|value| Value::String(value.clone()))
                    }
                    (_, value) => return Err(format!("the input is {}, a key expected", value.kind())),
                };
                let unknown = || match &p.value_on_unknown {
                    Some(ValueOnUnknown::StrValue(value)) => Some(Value::String(value.clone())),
                    Some(ValueOnUnknown::Int64Value(value)) => Some(Value::Int64(*value)),
                    None => None,
                };
                let value = value.or_else(unknown).ok_or("the input is not in the map")?;
                Ok(named(outputs, value))
            }
            Type::Imputer(p) => impute(p, first()?).map(|value| named(outputs, value)),
            Type::GlmRegressor(p) => {
                let values = joined()?;
                let rows: Vec<&[f64]> = p.weights.iter().map(|row| &row.value[..]).collect();
                let mut sums = scores(&rows, &p.offset, &values)?;
                for sum in &mut sums {
                    *sum = match p.post_evaluation_transform() {
                        RegressorTransform::NoTransform => *sum,
                        RegressorTransform::Logit => logistic(*sum),
                        RegressorTransform::Probit => normal(*sum),
                    };
                }
                vector(sums)
            }
            Type::GlmClassifier(p) => {
                let values = joined()?;
                let rows: Vec<&[f64]> = p.weights.iter().map(|row| &row.value[..]).collect();
                let sums = scores(&rows, &p.offset, &values)?;
                let link = |sum: f64| match p.post_evaluation_transform() {
                    ClassifierTransform::Logit => logistic(sum),
                    ClassifierTransform::Probit => normal(sum),
                };
                let probabilities = match (&sums[..], p.class_encoding()) {
                    ([sum], _) => vec![1.0 - link(*sum), link(*sum)],
                    (sums, ClassEncoding::ReferenceClass) => softmax(&[&[0.0], sums].concat()),
                    (sums, ClassEncoding::OneVsRest) => {
                        let linked: Vec<f64> = sums.iter().map(|&sum| link(sum)).collect();
                        let total: f64 = linked.iter().sum();
                        linked.into_iter().map(|value| value / total).collect()
                    }
                };
                self.classified(&probabilities)
            }
            Type::TreeEnsembleRegressor(p) => {
                let sums = self.ensemble(p.tree_ensemble.as_ref(), &joined()?)?;
                vector(transformed(&sums, p.post_evaluation_transform()))
            }
            Type::TreeEnsembleClassifier(p) => {
                let sums = self.ensemble(p.tree_ensemble.as_ref(), &joined()?)?;
                let mut probabilities = transformed(&sums, p.post_evaluation_transform());
                if let [positive] = probabilities[..] {
                    probabilities = vec![1.0 - positive, positive];
                }
                self.classified(&probabilities)
            }
            Type::NonMaximumSuppression(p) => suppress(p, features),
            _ => Err("it cannot be run".to_owned()),
        }
    }

    fn classified(&self, scores: &[f64]) -> Outcome<Features> {
        let classified = self.labels.as_ref().and_then(|labels| labels.classify(scores));
        let (label, dictionary) =
            classified.ok_or_else(|| format!("{} scores are not as many as labels", scores.len()))?;
        let pairs = [(&self.label_name, label), (&self.scores_name, dictionary)];
        Ok(pairs.into_iter().filter(|(name, _)| !name.is_empty()).map(|(name, value)| (name.clone(), value)).collect())
    }

    /// The sums of all trees' leaves.
    fn ensemble(&self, params: Option<&TreeEnsembleParameters>, values: &[f64]) -> Outcome<Vec<f64>> {
        let params = params.ok_or("treeEnsemble is missing")?;
        let mut sums = params.base_prediction_value.clone();
        let dimensions = usize::try_from(params.num_prediction_dimensions).unwrap_or(usize::MAX);
        // A leaf's index is checked against the numbers that there are.
        if sums.len() < dimensions.min(params.nodes.len()) {
            sums.resize(dimensions.min(params.nodes.len()), 0.0);
        }
        for (nodes, root) in &self.trees {
            let mut at = *root;
            loop {
                let node = nodes.get(&at).ok_or_else(|| format!("a tree has no node {at}"))?;
                if node.node_behavior() == TreeNodeBehavior::LeafNode {
                    for info in &node.evaluation_info {
                        let index = usize::try_from(info.evaluation_index).unwrap_or(usize::MAX);
                        let len = sums.len();
                        let sum = sums.get_mut(index).ok_or_else(|| format!("evaluationIndex {index} of {len}"))?;
                        *sum += info.evaluation_value;
                    }
                    break;
                }
                let index = usize::try_from(node.branch_feature_index).unwrap_or(usize::MAX);
                let value =
                    values.get(index).ok_or_else(|| format!("branchFeatureIndex {index} of {}", values.len()))?;
                at = if goes_true(node, *value) { node.true_child_node_id } else { node.false_child_node_id };
            }
        }
        Ok(sums)
    }
}

fn goes_true(node: &TreeNode, value: f64) -> bool {
    if value.is_nan() {
        return node.missing_value_tracks_true_child;
    }
    let threshold = node.branch_feature_value;
    match node.node_behavior() {
        TreeNodeBehavior::BranchOnValueLessThanEqual => value <= threshold,
        TreeNodeBehavior::BranchOnValueLessThan => value < threshold,
        TreeNodeBehavior::BranchOnValueGreaterThanEqual => value >= threshold,
        TreeNodeBehavior::BranchOnValueGreaterThan => value > threshold,
        TreeNodeBehavior::BranchOnValueEqual => value == threshold,
        TreeNodeBehavior::BranchOnValueNotEqual => value != threshold,
        TreeNodeBehavior::LeafNode => false,
    }
}

/// The trees of an ensemble. The root is the node that is nobody's child, and from it each other node is reached once.
fn plant(params: &TreeEnsembleParameters) -> Outcome<Vec<(HashMap<u64, TreeNode>, u64)>> {
    let mut trees: Vec<(HashMap<u64, TreeNode>, u64)> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for node in &params.nodes {
        let place = *places.entry(node.tree_id).or_insert_with(|| {
            trees.push((HashMap::new(), 0));
            trees.len() - 1
        });
        trees[place].0.insert(node.node_id, node.clone());
    }
    for (nodes, root) in &mut trees {
        let children_of = |node: &TreeNode| {
            let children = [node.true_child_node_id, node.false_child_node_id];
            children.into_iter().filter(|_| node.node_behavior() != TreeNodeBehavior::LeafNode).collect::<Vec<_>>()
        };
        let children: std::collections::HashSet<u64> = nodes.values().flat_map(children_of).collect();
        let roots: Vec<u64> = nodes.keys().copied().filter(|id| !children.contains(id)).collect();
        *root = match roots[..] {
            [root] => root,
            _ => return Err(format!("a tree has {} roots", roots.len())),
        };
        let (mut waiting, mut reached) = (vec![*root], 0);
        while let Some(node) = waiting.pop() {
            let node = nodes.get(&node).ok_or_else(|| format!("a tree has no node {node}"))?;
            reached += 1;
            if reached > nodes.len() {
                return Err("a node of a tree is the child of two".to_owned());
            }
            waiting.extend(children_of(node));
        }
        if reached < nodes.len() {
            return Err(format!("{} nodes of a tree are not reached from its root", nodes.len() - reached));
        }
    }
    Ok(trees)
}

fn transformed(sums: &[f64], transform: TreeEnsemblePostEvaluationTransform) -> Vec<f64> {
    use TreeEnsemblePostEvaluationTransform as Transform;
    match transform {
        Transform::NoTransform => sums.to_vec(),
        Transform::ClassificationSoftMax => softmax(sums),
        Transform::RegressionLogistic => sums.iter().map(|&sum| logistic(sum)).collect(),
        Transform::ClassificationSoftMaxWithZeroClassReference => softmax(&[&[0.0], sums].concat()),
    }
}

fn softmax(sums: &[f64]) -> Vec<f64> {
    let largest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = sums.iter().map(|sum| (sum - largest).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / total).collect()
}

fn logistic(value: f64) -> f64 {
    1.0 / (1.0 + (-value).exp())
}

/// The cumulative normal distribution.
fn normal(value: f64) -> f64 {
    0.5 * (1.0 + ops::erf(value / std::f64::consts::SQRT_2))
}

/// A sum of products a row, plus its offset.
fn scores(rows: &[&[f64]], offsets: &[f64], values: &[f64]) -> Outcome<Vec<f64>> {
    if rows.len() != offsets.len() && !offsets.is_empty() {
        return Err(format!("{} offsets for {} rows of weights", offsets.len(), rows.len()));
    }
    let score = |(index, row): (usize, &&[f64])| {
        if row.len() != values.len() {
            return Err(format!("the input has {} values, {} weights expected", values.len(), row.len()));
        }
        let offset = offsets.get(index).copied().unwrap_or(0.0);
        Ok(offset + row.iter().zip(values).map(|(weight, value)| weight * value).sum::<f64>())
    };
    rows.iter().enumerate().map(score).collect()
}

/// Joins each value with a parameter of its own, or with the only one.
fn each(
    values: &mut [f64],
    parameters: &[f64],
    default: f64,
    len: usize,
    join: impl Fn(f64, f64) -> f64,
) -> Outcome<()> {
    match parameters {
        [] => values.iter_mut().for_each(|value| *value = join(*value, default)),
        [only] => values.iter_mut().for_each(|value| *value = join(*value, *only)),
        all if all.len() == len => values.iter_mut().zip(all).for_each(|(value, all)| *value = join(*value, *all)),
        all => return Err(format!("{} parameters for {len} values", all.len())),
    }
    Ok(())
}

fn impute(p: &proto::Imputer, value: &Value) -> Outcome<Value> {
    let replaced = |number: f64| match &p.replace_value {
        Some(ReplaceValue::ReplaceDoubleValue(replaced)) => {
            number == *replaced || (number.is_nan() && replaced.is_nan())
        }
        Some(ReplaceValue::ReplaceInt64Value(replaced)) => number == *replaced as f64,
        _ => number.is_nan(),
    };
    let imputed = match &p.imputed_value {
        Some(ImputedValue::ImputedDoubleValue(value)) => vec![*value],
        Some(ImputedValue::ImputedInt64Value(value)) => vec![*value as f64],
        Some(ImputedValue::ImputedDoubleArray(values)) => values.vector.clone(),
        Some(ImputedValue::ImputedInt64Array(values)) => values.vector.iter().map(|&value| value as f64).collect(),
        _ => Vec::new(),
    };
    let of = |index: usize| if let [only] = imputed[..] { Some(only) } else { imputed.get(index).copied() };
    let wrong = || format!("the imputed value does not fit {}", value.kind());
    Ok(match (value, &p.imputed_value) {
        (Value::String(text), Some(ImputedValue::ImputedStringValue(imputed))) => match &p.replace_value {
            Some(ReplaceValue::ReplaceStringValue(replaced)) if replaced == text => Value::String(imputed.clone()),
            _ => value.clone(),
        },
        (Value::StringDictionary(own), Some(ImputedValue::ImputedStringDictionary(imputed))) => {
            let pairs = own.iter().map(|(key, &number)| {
                (key.clone(), if replaced(number) { imputed.map.get(key).copied().unwrap_or(number) } else { number })
            });
            Value::StringDictionary(pairs.collect())
        }
        (Value::Int64Dictionary(own), Some(ImputedValue::ImputedInt64Dictionary(imputed))) => {
            let pairs = own.iter().map(|(&key, &number)| {
                (key, if replaced(number) { imputed.map.get(&key).copied().unwrap_or(number) } else { number })
            });
            Value::Int64Dictionary(pairs.collect())
        }
        (Value::Double(number), _) if replaced(*number) => Value::Double(of(0).ok_or_else(wrong)?),
        (Value::Int64(number), _) if replaced(*number as f64) => Value::Int64(of(0).ok_or_else(wrong)? as i64),
        (Value::Double(_) | Value::Int64(_), _) => value.clone(),
        (Value::Array(array), _) => {
            let mut values: Vec<f32> = array.iter().copied().collect();
            for (index, number) in values.iter_mut().enumerate() {
                if replaced((*number).into()) {
                    *number = of(index).ok_or_else(wrong)? as f32;
                }
            }
            Value::Array(Tensor::from_shape_vec(IxDyn(array.shape()), values).map_err(|_| wrong())?)
        }
        _ => return Err(wrong()),
    })
}

/// Boxes by falling confidence; one that overlaps a better one by more than the threshold is dropped.
fn suppress(p: &proto::NonMaximumSuppression, features: &Features) -> Outcome<Features> {
    let threshold = |name: &str, own: f64| {
        let given = if name.is_empty() { None } else { features.get(name) };
        given.map_or(Ok::<_, String>(own), |value| Ok(numbers(value, name)?.first().copied().unwrap_or(own)))
    };
    let overlap: f64 = threshold(&p.iou_threshold_input_feature_name, p.iou_threshold)?;
    let least: f64 = threshold(&p.confidence_threshold_input_feature_name, p.confidence_threshold)?;
    let array = |name: &str| match find(features, name)? {
        Value::Array(array) => Ok(array),
        value => Err(format!("\"{name}\" is {}, an array expected", value.kind())),
    };
    let (confidences, coordinates) =
        (array(&p.confidence_input_feature_name)?, array(&p.coordinates_input_feature_name)?);
    let Some(&classes) = confidences.shape().last() else { return Err("the confidences have no axes".to_owned()) };
    let scores: Vec<f32> = confidences.iter().copied().collect();
    let boxes: Vec<[f32; 4]> = coordinates.iter().copied().collect::<Vec<_>>().as_chunks::<4>().0.to_vec();
    if classes == 0 || scores.len() / classes != boxes.len() || coordinates.len() != boxes.len() * 4 {
        let (a, b) = (confidences.shape(), coordinates.shape());
        return Err(format!("confidences of the shape {a:?} and coordinates of the shape {b:?} do not fit"));
    }
    let per_class = matches!(&p.suppression_method, Some(SuppressionMethod::PickTop(top)) if top.per_class);
    let mut order: Vec<(usize, usize, f32)> = Vec::new();
    for (index, scores) in scores.chunks(classes).enumerate() {
        let best = (0..classes).fold(0, |best, class| if scores[class] > scores[best] { class } else { best });
        if f64::from(scores[best]) >= least {
            order.push((index, best, scores[best]));
        }
    }
    order.sort_by(|a, b| b.2.total_cmp(&a.2));
    let mut kept: Vec<(usize, usize)> = Vec::new();
    for (index, class, _) in order {
        let rival = |&(other, of): &(usize, usize)| {
            (!per_class || of == class) && intersection_over_union(&boxes[index], &boxes[other]) > overlap
        };
        if !kept.iter().any(rival) {
            kept.push((index, class));
        }
    }
    let confidences =
        kept.iter().flat_map(|&(index, _)| scores[index * classes..][..classes].iter().copied()).collect();
    let coordinates = kept.iter().flat_map(|&(index, _)| boxes[index]).collect();
    let tensor = |width: usize, values: Vec<f32>| {
        Tensor::from_shape_vec(IxDyn(&[kept.len(), width]), values).map_err(|error| error.to_string())
    };
    Ok(Features::new()
        .with(&p.confidence_output_feature_name, tensor(classes, confidences)?)
        .with(&p.coordinates_output_feature_name, tensor(4, coordinates)?))
}

/// Of boxes given by centre and size.
fn intersection_over_union(a: &[f32; 4], b: &[f32; 4]) -> f64 {
    let [a, b] = [a, b].map(|corners| corners.map(f64::from));
    let side = |axis: usize| {
        let start = (a[axis] - a[axis + 2] / 2.0).max(b[axis] - b[axis + 2] / 2.0);
        let end = (a[axis] + a[axis + 2] / 2.0).min(b[axis] + b[axis + 2] / 2.0);
        (end - start).max(0.0)
    };
    let both = side(0) * side(1);
    let union = a[2] * a[3] + b[2] * b[3] - both;
    if union > 0.0 { both / union } else { 0.0 }
}

fn find<'f>(features: &'f Features, name: &str) -> Outcome<&'f Value> {
    features.get(name).ok_or_else(|| format!("the input \"{name}\" is missing"))
}

/// A value's numbers in order.
fn numbers(value: &Value, name: &str) -> Outcome<Vec<f64>> {
    Ok(match value {
        Value::Array(array) => array.iter().map(|&value| value.into()).collect(),
        Value::Double(value) => vec![*value],
        Value::Int64(value) => vec![*value as f64],
        Value::StringDictionary(values) => values.values().copied().collect(),
        Value::Int64Dictionary(values) => values.values().copied().collect(),
        Value::String(_) | Value::Image(_) => return Err(format!("\"{name}\" is {}, numbers expected", value.kind())),
    })
}

/// A value as the first output.
fn named(outputs: &[FeatureInfo], value: Value) -> Features {
    outputs.first().map(|output| (output.name.clone(), value)).into_iter().collect()
}

/// Numbers as the first output describes itself.
fn as_output(outputs: &[FeatureInfo], values: Vec<f64>) -> Outcome<Features> {
    let first = values.first().copied();
    let value = match outputs.first().map(|output| &output.kind) {
        Some(FeatureKind::Double) => Value::Double(first.ok_or("there is no value")?),
        Some(FeatureKind::Int64) => Value::Int64(first.ok_or("there is no value")? as i64),
        _ => {
            let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
            let shape = [values.len()];
            Value::Array(Tensor::from_shape_vec(IxDyn(&shape), values).map_err(|error| error.to_string())?)
        }
    };
    Ok(named(outputs, value))
}

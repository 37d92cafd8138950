//! Which axes of a weight are its output and input channels, as its consumers see it, and what has to stay exact.

use super::graph::{Graph, Use};
use super::value;
use crate::format::proto::mil_spec::tensor_value::Value as List;
use crate::format::proto::mil_spec::value::immediate_value::Value as Immediate;
use crate::format::proto::mil_spec::value::{ImmediateValue, Value as Stored};

/// The channel axes of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axes {
    pub(crate) output: usize,
    pub(crate) input: usize,
}

/// The axes for one consumer of a weight of a rank of 2 or more.
pub(crate) fn axes(graph: &Graph<'_>, consumer: &Use<'_>, rank: usize) -> Axes {
    let (last, before) = (rank.saturating_sub(1), rank.saturating_sub(2));
    let flag = |parameter| graph.constant(consumer.node, parameter).is_some_and(is_true);
    match (graph.nodes[consumer.node].operation.r#type.as_str(), consumer.parameter) {
        ("conv_transpose", "weight") => Axes { output: 1, input: 0 },
        ("matmul", "y") if flag("transpose_y") => Axes { output: before, input: last },
        ("matmul", "y") => Axes { output: last, input: before },
        ("matmul", "x") if flag("transpose_x") => Axes { output: last, input: before },
        ("matmul", "x") => Axes { output: before, input: last },
        _ => Axes { output: 0, input: 1 },
    }
}

/// The axes on which all consumers agree; `None` if they do not.
pub(crate) fn agreed_axes(graph: &Graph<'_>, uses: &[Use<'_>], rank: usize) -> Option<Axes> {
    let mut all = uses.iter().map(|consumer| axes(graph, consumer, rank));
    let first = all.next()?;
    all.all(|axes| axes == first).then_some(first)
}

fn is_true(value: &crate::format::proto::mil_spec::Value) -> bool {
    match &value.value {
        Some(Stored::ImmediateValue(ImmediateValue { value: Some(Immediate::Tensor(tensor)) })) => {
            match &tensor.value {
                Some(List::Bools(list)) => list.values.first() == Some(&true),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Parameters whose floats are positions or sizes, and do not bear rounding.
const POSITIONS: [(&str, &str); 9] = [
    ("resample", "coordinates"),
    ("crop_resize", "roi"),
    ("crop_resize", "boxes"),
    ("affine", "transform_matrix"),
    ("non_maximum_suppression", "boxes"),
    ("equal", ""),
    ("not_equal", ""),
    ("range_1d", ""),
    ("one_hot", ""),
];

/// Operations that move elements and do not change them: what their output is used for, their input is.
const MOVES: [&str; 13] = [
    "identity",
    "reshape",
    "reshape_like",
    "transpose",
    "expand_dims",
    "squeeze",
    "slice_by_index",
    "slice_by_size",
    "split",
    "concat",
    "tile",
    "stack",
    "gather",
];

/// The operation for which the values of a node have to stay exact, if there is one: they are used as positions, or cast
/// to whole numbers.
pub(crate) fn exact_use<'m>(graph: &Graph<'m>, node: usize) -> Option<Use<'m>> {
    // A graph has no circles: uses come after what they use. Each node is looked at once.
    let mut open = vec![node];
    let mut seen = std::collections::HashSet::new();
    while let Some(node) = open.pop() {
        for &consumer in &graph.nodes[node].uses {
            let operation = graph.nodes[consumer.node].operation;
            let is = |&(kind, parameter): &(&str, &str)| {
                kind == operation.r#type && (parameter.is_empty() || parameter == consumer.parameter)
            };
            let casts_to_integer = operation.r#type == "cast"
                && graph
                    .constant(consumer.node, "dtype")
                    .and_then(value::text)
                    .is_some_and(|dtype| dtype.starts_with("int") || dtype.starts_with("uint") || dtype == "bool");
            if casts_to_integer || POSITIONS.iter().any(is) {
                return Some(consumer);
            }
            if MOVES.contains(&operation.r#type.as_str()) && seen.insert(consumer.node) {
                open.push(consumer.node);
            }
        }
    }
    None
}

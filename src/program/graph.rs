//! The way through a program: every operation in one fixed order, what feeds it and what it feeds.
//!
//! Programs lie in models and in the members of pipelines; a program has functions, a function the block of its opset, and
//! operations may have blocks of their own. An operation comes before those inside it. A name is that of an output in the
//! same block or in one around it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::format::proto::mil_spec::argument::binding::Binding;
use crate::format::proto::mil_spec::{Block, Operation, Program, Value};

/// The operations of a program, and what connects them.
#[derive(Debug, Default)]
pub(crate) struct Graph<'m> {
    pub(crate) nodes: Vec<Node<'m>>,
}

/// One operation.
#[derive(Debug)]
pub(crate) struct Node<'m> {
    pub(crate) operation: &'m Operation,
    /// The block it is in: `model/main`, `model/pipeline[1]/main/cond_0/block[1]`.
    pub(crate) block: Arc<str>,
    /// What it takes.
    pub(crate) inputs: Vec<Input<'m>>,
    /// Which operations take its outputs.
    pub(crate) uses: Vec<Use<'m>>,
    /// Whether one of its outputs is an output of a block.
    pub(crate) is_block_output: bool,
}

/// One argument of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'m> {
    pub(crate) parameter: &'m str,
    pub(crate) source: Source<'m>,
}

/// Where an argument comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'m> {
    /// An output of an operation.
    Node {
        /// The operation's index.
        node: usize,
        /// The output's index.
        output: usize,
    },
    /// A value that is bound directly.
    Value(&'m Value),
    /// An input of a block or function, or nothing that is there.
    Outside,
}

/// An operation that takes an output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use<'m> {
    /// The operation's index.
    pub(crate) node: usize,
    /// Its parameter.
    pub(crate) parameter: &'m str,
}

/// The name under which the live block of a function is.
fn live_block(function: &crate::format::proto::mil_spec::Function) -> Option<&Block> {
    function.block_specializations.get(&function.opset)
}

impl<'m> Graph<'m> {
    /// The graph of a program in the model with a path.
    pub(crate) fn of(program: &'m Program, path: &str) -> Self {
        let mut graph = Self::default();
        for (name, function) in &program.functions {
            if let Some(block) = live_block(function) {
                let mut scopes = Scopes::default();
                graph.add_block(block, &format!("{path}/{name}").into(), &mut scopes);
            }
        }
        graph
    }

    fn add_block(&mut self, block: &'m Block, path: &Arc<str>, scopes: &mut Scopes<'m>) {
        scopes.open();
        for input in &block.inputs {
            scopes.define(&input.name, None);
        }
        for operation in &block.operations {
            let index = self.nodes.len();
            let mut inputs = Vec::new();
            for (parameter, argument) in &operation.inputs {
                for binding in &argument.arguments {
                    let source = match &binding.binding {
                        Some(Binding::Name(name)) => scopes.find(name),
                        Some(Binding::Value(value)) => Source::Value(value),
                        None => Source::Outside,
                    };
                    inputs.push(Input { parameter, source });
                    if let Source::Node { node, .. } = source {
                        self.nodes[node].uses.push(Use { node: index, parameter });
                    }
                }
            }
            let block = Arc::clone(path);
            self.nodes.push(Node { operation, block, inputs, uses: Vec::new(), is_block_output: false });
            for (number, inner) in operation.blocks.iter().enumerate() {
                let name = operation.outputs.first().map_or("", |output| output.name.as_str());
                let path = crate::model::walk::inner_path(path, name, &format!("block[{number}]"));
                self.add_block(inner, &path.into(), scopes);
            }
            for (output, value) in operation.outputs.iter().enumerate() {
                scopes.define(&value.name, Some((index, output)));
            }
        }
        for output in &block.outputs {
            if let Source::Node { node, .. } = scopes.find(output) {
                self.nodes[node].is_block_output = true;
            }
        }
        scopes.close();
    }

    /// Where an operation's parameter comes from: an attribute, or the first argument of an input.
    pub(crate) fn parameter(&self, node: usize, parameter: &str) -> Option<Source<'m>> {
        let node = &self.nodes[node];
        if let Some(value) = node.operation.attributes.get(parameter) {
            return Some(Source::Value(value));
        }
        node.inputs.iter().find(|input| input.parameter == parameter).map(|input| input.source)
    }

    /// The value of a parameter that is bound directly or to a constant.
    pub(crate) fn constant(&self, node: usize, parameter: &str) -> Option<&'m Value> {
        match self.parameter(node, parameter)? {
            Source::Value(value) => Some(value),
            Source::Node { node, .. } => constant(self.nodes[node].operation),
            Source::Outside => None,
        }
    }
}

/// The value of an operation that is a constant.
pub(crate) fn constant(operation: &Operation) -> Option<&Value> {
    (operation.r#type == "const").then(|| operation.attributes.get("val")).flatten()
}

/// Whether an operation makes a weight from a compressed form.
pub(crate) fn is_constexpr(operation: &Operation) -> bool {
    operation.r#type.starts_with("constexpr_")
}

/// The names that can be seen, and what has them.
#[derive(Debug, Default)]
struct Scopes<'m> {
    names: HashMap<&'m str, Vec<Option<(usize, usize)>>>,
    open: Vec<Vec<&'m str>>,
}

impl<'m> Scopes<'m> {
    fn open(&mut self) {
        self.open.push(Vec::new());
    }

    fn define(&mut self, name: &'m str, output: Option<(usize, usize)>) {
        self.names.entry(name).or_default().push(output);
        if let Some(scope) = self.open.last_mut() {
            scope.push(name);
        }
    }

    fn find(&self, name: &str) -> Source<'m> {
        match self.names.get(name).and_then(|outputs| outputs.last()) {
            Some(&Some((node, output))) => Source::Node { node, output },
            _ => Source::Outside,
        }
    }

    fn close(&mut self) {
        for name in self.open.pop().unwrap_or_default() {
            if let Some(outputs) = self.names.get_mut(name) {
                outputs.pop();
            }
        }
    }
}

/// Visits the operations of a program in the order of [`Graph::nodes`], to change them; those for which `keep` returns
/// false are removed.
pub(crate) fn change_operations(program: &mut Program, keep: &mut dyn FnMut(usize, &mut Operation) -> bool) {
    let mut index = 0;
    for function in program.functions.values_mut() {
        if let Some(block) = function.block_specializations.get_mut(&function.opset) {
            change_block(block, &mut index, keep);
        }
    }
}

fn change_block(block: &mut Block, index: &mut usize, keep: &mut dyn FnMut(usize, &mut Operation) -> bool) {
    block.operations.retain_mut(|operation| {
        let own = *index;
        *index += 1;
        for inner in &mut operation.blocks {
            change_block(inner, index, keep);
        }
        keep(own, operation)
    });
}

//! Opsets: what a program may use, and how it is raised to a newer one.
//!
//! A system refuses programs of opsets that it does not know, so a program is raised no further than the forms of its
//! weights ask for. Raising renames the opset and gives the operations whose definition has changed their new parameters,
//! with the values that mean what was meant before. Two operations changed so much that this is not possible.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::value::{Tensor, bool_value, string_value};
use crate::format::proto::mil_spec::argument::{Binding, binding};
use crate::format::proto::mil_spec::{Argument, Block, Function, Operation, Program, Value};

/// A set of operations, by the number in its name: `CoreML5` to `CoreML9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Opset(u8);

impl Opset {
    pub(crate) const CORE_ML_5: Self = Self(5);
    pub(crate) const CORE_ML_6: Self = Self(6);
    pub(crate) const CORE_ML_7: Self = Self(7);
    pub(crate) const CORE_ML_8: Self = Self(8);
    pub(crate) const CORE_ML_9: Self = Self(9);

    /// The opset with a name, if it is known.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let number = name.strip_prefix("CoreML")?.parse().ok()?;
        (5..=9).contains(&number).then_some(Self(number))
    }

    /// The one after it.
    pub(crate) fn next(self) -> Option<Self> {
        (self < Self::CORE_ML_9).then_some(Self(self.0 + 1))
    }

    /// Its name.
    pub(crate) fn name(self) -> String {
        format!("CoreML{}", self.0)
    }

    /// The lowest specificationVersion that has it.
    pub(crate) fn specification_version(self) -> i32 {
        i32::from(self.0) + 1
    }

    /// Whether parameters of compressed weights are inputs, as from CoreML8 on, or attributes.
    pub(crate) fn has_inputs(self) -> bool {
        self >= Self::CORE_ML_8
    }
}

impl fmt::Display for Opset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoreML{}", self.0)
    }
}

/// The oldest system that has to run a program, by its name on phones: macOS 13, watchOS 9 and tvOS 16 came with iOS 16,
/// macOS 14 with iOS 17, macOS 15 with iOS 18.
///
/// ```
/// use coreml_quant::DeploymentTarget;
///
/// assert_eq!("iOS18".parse(), Ok(DeploymentTarget::Ios18));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum DeploymentTarget {
    /// Weights of 8 bits, a scale for each channel; tables of 1, 2, 4, 6, 8 bits, one for a weight; sparse weights.
    Ios16,
    /// As iOS 16.
    Ios17,
    /// Also 4 bits, blocks, tables of 3 bits, and a table for each group of channels.
    Ios18,
    /// As iOS 18.
    Ios26,
}

impl DeploymentTarget {
    /// Every target.
    pub fn all() -> &'static [Self] {
        &[Self::Ios16, Self::Ios17, Self::Ios18, Self::Ios26]
    }

    /// The name, as coremltools has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ios16 => "iOS16",
            Self::Ios17 => "iOS17",
            Self::Ios18 => "iOS18",
            Self::Ios26 => "iOS26",
        }
    }

    /// The oldest target that has an opset.
    pub(crate) fn of(opset: Opset) -> Self {
        Self::all().iter().copied().find(|target| target.opset() >= opset).unwrap_or(Self::Ios26)
    }

    /// The newest opset that it has.
    pub(crate) fn opset(self) -> Opset {
        match self {
            Self::Ios16 => Opset::CORE_ML_6,
            Self::Ios17 => Opset::CORE_ML_7,
            Self::Ios18 => Opset::CORE_ML_8,
            Self::Ios26 => Opset::CORE_ML_9,
        }
    }
}

impl fmt::Display for DeploymentTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no target of this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no deployment target \"{found}\"; the targets are iOS16, iOS17, iOS18 and iOS26")]
pub struct UnknownTarget {
    /// What was asked for.
    pub found: String,
}

impl FromStr for DeploymentTarget {
    type Err = UnknownTarget;

    fn from_str(name: &str) -> Result<Self, UnknownTarget> {
        let found = Self::all().iter().find(|target| target.name().eq_ignore_ascii_case(name));
        found.copied().ok_or_else(|| UnknownTarget { found: name.to_owned() })
    }
}

/// An operation that keeps a program from being raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    /// Its type.
    pub(crate) operation: String,
    /// The first opset in which it is another one.
    pub(crate) opset: Opset,
}

/// What a new opset adds to an operation.
struct Change {
    operation: &'static str,
    /// The opset that brought it.
    since: Opset,
    parameter: &'static str,
    value: fn() -> Value,
}

fn no() -> Value {
    bool_value(false)
}

fn yes() -> Value {
    bool_value(true)
}

fn int32() -> Value {
    string_value("int32")
}

fn zero() -> Value {
    Tensor::int32(0).to_immediate()
}

/// Every parameter that an operation got in a newer opset, and that is not optional.
#[rustfmt::skip]
const CHANGES: [Change; 13] = [
    Change { operation: "gather", since: Opset::CORE_ML_6, parameter: "batch_dims", value: zero },
    Change { operation: "gather", since: Opset::CORE_ML_7, parameter: "validate_indices", value: no },
    Change { operation: "gather_nd", since: Opset::CORE_ML_6, parameter: "batch_dims", value: zero },
    Change { operation: "gather_nd", since: Opset::CORE_ML_7, parameter: "validate_indices", value: no },
    Change { operation: "gather_along_axis", since: Opset::CORE_ML_7, parameter: "validate_indices", value: no },
    Change { operation: "scatter", since: Opset::CORE_ML_7, parameter: "validate_indices", value: no },
    Change { operation: "scatter_along_axis", since: Opset::CORE_ML_7, parameter: "validate_indices", value: no },
    Change { operation: "scatter_nd", since: Opset::CORE_ML_7, parameter: "validate_indices", value: no },
    Change { operation: "topk", since: Opset::CORE_ML_6, parameter: "sort", value: yes },
    Change { operation: "topk", since: Opset::CORE_ML_6, parameter: "return_indices", value: yes },
    Change { operation: "topk", since: Opset::CORE_ML_7, parameter: "output_indices_dtype", value: int32 },
    Change { operation: "reduce_argmax", since: Opset::CORE_ML_7, parameter: "output_dtype", value: int32 },
    Change { operation: "reduce_argmin", since: Opset::CORE_ML_7, parameter: "output_dtype", value: int32 },
];

/// Operations that another opset has in another shape: what they were cannot be said there.
const BREAKS: [(&str, Opset); 2] = [("crop_resize", Opset::CORE_ML_7), ("non_maximum_suppression", Opset::CORE_ML_7)];

/// The parameter whose zero `crop_resize` has got in CoreML6.
const PAD_VALUE: &str = "pad_value";

/// The oldest opset of a program's functions; `None` if one of them is not known.
pub(crate) fn of(program: &Program) -> Option<Opset> {
    let opsets = program.functions.values().map(|function| Opset::parse(&function.opset));
    opsets.collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// The first operation that keeps a program from being raised to an opset.
pub(crate) fn blocked(program: &Program, to: Opset) -> Option<Blocked> {
    program.functions.values().find_map(|function| {
        let from = Opset::parse(&function.opset)?;
        blocked_in(function.block_specializations.get(&function.opset)?, from, to)
    })
}

fn blocked_in(block: &Block, from: Opset, to: Opset) -> Option<Blocked> {
    block.operations.iter().find_map(|operation| {
        let breaks = BREAKS.iter().find(|(kind, since)| operation.r#type == *kind && from < *since && *since <= to);
        // Of what type the padding of crop_resize has to be is not known.
        let pads = operation.r#type == "crop_resize"
            && from < Opset::CORE_ML_6
            && Opset::CORE_ML_6 <= to
            && !operation.inputs.contains_key(PAD_VALUE);
        let opset = breaks.map(|(_, since)| *since).or(pads.then_some(Opset::CORE_ML_6));
        let own = opset.map(|opset| Blocked { operation: operation.r#type.clone(), opset });
        own.or_else(|| operation.blocks.iter().find_map(|block| blocked_in(block, from, to)))
    })
}

/// Raises a program whose operations are not [`blocked`]; its compressed weights are rewritten elsewhere.
pub(crate) fn raise(program: &mut Program, to: Opset) {
    for function in program.functions.values_mut() {
        let Some(from) = Opset::parse(&function.opset).filter(|&from| from < to) else { continue };
        let Function { opset, block_specializations, .. } = function;
        let Some(mut block) = block_specializations.remove(opset) else { continue };
        raise_block(&mut block, from, to);
        *opset = to.name();
        block_specializations.insert(to.name(), block);
    }
}

fn raise_block(block: &mut Block, from: Opset, to: Opset) {
    for operation in &mut block.operations {
        for change in CHANGES
            .iter()
            .filter(|change| change.operation == operation.r#type && from < change.since && change.since <= to)
        {
            let value = Some(binding::Binding::Value((change.value)()));
            let argument = Argument { arguments: vec![Binding { binding: value }] };
            operation.inputs.entry(change.parameter.to_owned()).or_insert(argument);
        }
        for inner in &mut operation.blocks {
            raise_block(inner, from, to);
        }
    }
}

/// Binds a parameter to a value.
pub(crate) fn bind(operation: &mut Operation, parameter: &str, value: Value) {
    let argument = Argument { arguments: vec![Binding { binding: Some(binding::Binding::Value(value)) }] };
    operation.inputs.insert(parameter.to_owned(), argument);
}

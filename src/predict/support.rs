//! What is and is not supported, layer type by layer type: for the documentation, and for programs that ask first.

use super::layers::uncertain as weighted;
use super::network_model as features;
use super::ops::uncertain as weightless;
use crate::format::layer_types;

/// How far a layer type is supported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSupport {
    /// The layer type, under its name in the format.
    pub layer_type: &'static str,
    /// Whether it can be run without help; a custom layer needs a [`CustomLayer`](super::CustomLayer).
    pub runs: bool,
    /// What is uncertain about it: neither the format's documentation nor recorded results of Core ML decide it.
    pub uncertain: Vec<&'static str>,
}

/// All layer types.
pub fn support() -> Vec<LayerSupport> {
    let notes = || weighted::ALL.into_iter().chain(weightless::ALL);
    // A statement starts with the layer types it is about.
    let about = |note: &str, layer_type: &str| {
        note.split_once(':').is_some_and(|(types, _)| types.split(", ").any(|name| name == layer_type))
    };
    layer_types()
        .iter()
        .map(|&layer_type| LayerSupport {
            layer_type,
            runs: layer_type != "custom",
            uncertain: notes().filter(|note| about(note, layer_type)).collect(),
        })
        .collect()
}

/// What is uncertain about more than a layer type: inputs, outputs, indices, random numbers.
pub fn uncertain() -> Vec<&'static str> {
    let own = |note: &&str| {
        note.split_once(':').is_none_or(|(types, _)| !layer_types().contains(&types.split(", ").next().unwrap_or("")))
    };
    let general = [
        features::BATCH,
        features::PREPROCESSORS,
        features::CHANNEL_SCALE,
        features::RANK,
        features::IMAGE_OUTPUT,
        features::SCORES,
    ];
    general.into_iter().chain(weightless::ALL.into_iter().filter(own)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of the message's `oneof layer`.
    #[test]
    fn all_layer_types_of_the_format_are_listed() {
        let schema = include_str!("../../proto/NeuralNetwork.proto");
        let (_, layers) = schema.split_once("oneof layer {").unwrap();
        let (layers, _) = layers.split_once('}').unwrap();
        let lines = layers.lines().map(str::trim).filter(|line| line.ends_with(';'));
        let fields: Vec<&str> = lines.map(|line| line.split_whitespace().nth(1).unwrap()).collect();
        assert_eq!(fields, layer_types());
        assert_eq!(support().len(), 158);
    }

    #[test]
    fn every_uncertainty_is_told() {
        let told: Vec<&str> = support().into_iter().flat_map(|layer| layer.uncertain).chain(uncertain()).collect();
        for note in weighted::ALL.into_iter().chain(weightless::ALL) {
            assert!(told.contains(&note), "{note}");
        }
    }
}

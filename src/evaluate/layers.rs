//! Where in a network two models differ: every layer of the other model is run on the original's inputs, too.
//!
//! Layers are matched by the names of the blobs that they read and write, so that a layer into which others were folded
//! stands for all of them. In loops, the n-th time that a blob is written is compared with the n-th time.

use std::collections::{BTreeMap, HashMap};

use super::report::LayerComparison;
use super::statistics::Sums;
use crate::format::proto::Model;
use crate::format::proto::neural_network_layer::Layer;
use crate::model::walk;
use crate::predict::network::Ran;
use crate::predict::{LayerInfo, PredictError, Predictor, Tensor};

/// The outputs that softmax layers write, of whatever network in the model.
pub(super) fn softmaxes(model: &Model) -> Vec<String> {
    let mut names = Vec::new();
    walk::each_layer(model, &mut |_, layer| {
        if matches!(layer.layer, Some(Layer::Softmax(_) | Layer::SoftmaxNd(_))) {
            names.extend(layer.output.iter().cloned());
        }
    });
    names
}

/// All blobs of the original on one sample, each as often as it was written, by network and name.
#[derive(Default)]
pub(super) struct Blobs(HashMap<String, HashMap<String, Vec<Tensor>>>);

impl Blobs {
    /// Takes what a layer has written, and what it has read where no layer has written it: the network's inputs.
    pub(super) fn remember(&mut self, ran: Ran<'_>) {
        if !self.0.contains_key(ran.network) {
            self.0.insert(ran.network.to_owned(), HashMap::new());
        }
        let Some(blobs) = self.0.get_mut(ran.network) else { return };
        for (name, tensor) in ran.step.info.inputs.iter().zip(ran.inputs) {
            blobs.entry(name.to_string()).or_insert_with(|| vec![tensor.clone()]);
        }
        for (name, tensor) in ran.step.info.outputs.iter().zip(ran.outputs) {
            blobs.entry(name.to_string()).or_default().push(tensor.clone());
        }
    }

    fn get(&self, network: &str, name: &str, time: usize) -> Option<&Tensor> {
        self.0.get(network)?.get(name)?.get(time)
    }
}

/// The other model's way through one sample.
pub(super) struct Walk<'w> {
    original: &'w Blobs,
    predictor: &'w Predictor,
    /// How often each blob has been written, its network's input counted.
    written: HashMap<(String, String), usize>,
    pub(super) sums: LayerSums,
}

impl<'w> Walk<'w> {
    pub(super) fn new(original: &'w Blobs, predictor: &'w Predictor) -> Self {
        Self { original, predictor, written: HashMap::new(), sums: LayerSums::default() }
    }

    /// Compares a layer that has run, and runs it on the original's inputs.
    pub(super) fn compare(&mut self, ran: Ran<'_>) -> Result<(), PredictError> {
        let info = &ran.step.info;
        let key = |name: &str| (ran.network.to_owned(), name.to_owned());
        let mut inputs = Vec::with_capacity(info.inputs.len());
        for name in &info.inputs {
            // What is read and was not written is an input of the network.
            let written = *self.written.entry(key(name)).or_insert(1);
            inputs.extend(self.original.get(ran.network, name, written - 1).cloned());
        }
        let mut expected = Vec::with_capacity(info.outputs.len());
        for (name, found) in info.outputs.iter().zip(ran.outputs) {
            let written = self.written.entry(key(name)).or_insert(0);
            *written += 1;
            let blob = self.original.get(ran.network, name, *written - 1);
            expected.extend(blob.filter(|blob| blob.shape() == found.shape()));
        }
        if expected.len() < info.outputs.len() {
            self.sums.0.entry((ran.network.to_owned(), info.index)).or_insert_with(|| Entry::new(info));
            return Ok(());
        }
        let sums = |found: &[Tensor]| {
            let mut sums = Sums::default();
            for (expected, found) in expected.iter().zip(found) {
                sums.add(&Sums::of(expected.iter().copied(), found.iter().copied()));
            }
            sums
        };
        let random = info.layer_type.starts_with("random") || info.layer_type == "categoricalDistribution";
        let own = if random || inputs.len() < ran.inputs.len() {
            None
        } else {
            let options = self.predictor.options();
            let outputs = ran.step.eval(&inputs, options, &mut options.context())?;
            let alike = outputs.iter().zip(&expected).all(|(found, expected)| found.shape() == expected.shape());
            alike.then(|| sums(&outputs))
        };
        let entry = self.sums.0.entry((ran.network.to_owned(), info.index)).or_insert_with(|| Entry::new(info));
        entry.add(Some(&sums(ran.outputs)), own.as_ref());
        Ok(())
    }
}

/// Sums over all runs of a layer.
#[derive(Clone)]
struct Entry {
    layer: LayerInfo,
    own: Option<Sums>,
    grown: Option<Sums>,
}

impl Entry {
    fn new(layer: &LayerInfo) -> Self {
        Self { layer: layer.clone(), own: None, grown: None }
    }

    fn add(&mut self, grown: Option<&Sums>, own: Option<&Sums>) {
        for (sums, more) in [(&mut self.grown, grown), (&mut self.own, own)] {
            if let Some(more) = more {
                sums.get_or_insert_default().add(more);
            }
        }
    }
}

/// The sums of all layers, by network and index.
#[derive(Default)]
pub(super) struct LayerSums(BTreeMap<(String, usize), Entry>);

impl LayerSums {
    pub(super) fn join<'l>(samples: impl Iterator<Item = &'l Self>) -> Self {
        let mut joined = Self::default();
        for sample in samples {
            for (key, entry) in &sample.0 {
                let own = joined.0.entry(key.clone()).or_insert_with(|| Entry::new(&entry.layer));
                own.add(entry.grown.as_ref(), entry.own.as_ref());
            }
        }
        joined
    }

    /// The layers, worst first, and the number of those that could not be compared.
    pub(super) fn comparisons(self) -> (Vec<LayerComparison>, usize) {
        let all = self.0.len();
        let compared = self.0.into_values().filter_map(|Entry { layer, own, grown }| Some((layer, own, grown?)));
        let mut compared: Vec<_> = compared.collect();
        let relative = |own: &Option<Sums>| own.as_ref().map_or(0.0, Sums::relative);
        compared.sort_by(|(_, a, a_grown), (_, b, b_grown)| {
            relative(b).total_cmp(&relative(a)).then(b_grown.relative().total_cmp(&a_grown.relative()))
        });
        let unmatched = all - compared.len();
        let layers = compared.into_iter().map(|(layer, own, grown)| LayerComparison {
            network: layer.network,
            layer: layer.name,
            layer_type: layer.layer_type,
            own: own.map(|own| own.difference()),
            grown: grown.difference(),
        });
        (layers.collect(), unmatched)
    }
}

//! The executor as its users see it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::description::FeatureInfo;
use super::error::{LayerInfo, PredictError};
use super::features::Features;
use super::members::Member;
use super::network::{CustomLayer, Observer, Options, Precision};
use super::network_model::{NetworkModel, note};
use super::tensor::Tensor;
use crate::format::proto::{self, model::Type};
use crate::model::Model;
use crate::model::walk;

/// Stands in for a model that cannot be run: from its inputs to its outputs.
pub type StandIn = dyn Fn(&Features) -> Result<Features, Box<dyn std::error::Error + Send + Sync>> + Send + Sync;

/// Runs a model: a network, or a pipeline of networks and of what occurs beside them.
///
/// Numbers are float32, as Core ML computes on a CPU; on a device, the GPU and the Neural Engine compute in float16
/// ([`with_precision`](Self::with_precision)). The same inputs give the same bits for any number of threads. Weights are
/// decoded once.
///
/// ```
/// use coreml_quant::predict::{Features, Predictor};
/// use ndarray::Array;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/digits/digits.mlmodel");
/// let model = coreml_quant::Model::open(path)?;
/// let predictor = Predictor::new(&model)?;
/// let input = &predictor.inputs()[0];
/// let outputs = predictor.predict(&Features::new().with(&input.name, Array::<f32, _>::zeros((1, 8, 8))))?;
/// assert!(outputs.iter().count() > 0);
/// # Ok(())
/// # }
/// ```
pub struct Predictor {
    root: Node,
    options: Options,
    stand_ins: HashMap<String, Arc<StandIn>>,
    notes: Mutex<Vec<&'static str>>,
}

/// A model, ready to run.
enum Node {
    Network(Box<NetworkModel>),
    Pipeline { path: String, inputs: Vec<FeatureInfo>, outputs: Vec<FeatureInfo>, members: Vec<Node> },
    Member { path: String, inputs: Vec<FeatureInfo>, outputs: Vec<FeatureInfo>, member: Box<Member> },
    Unsupported { path: String, kind: &'static str, inputs: Vec<FeatureInfo>, outputs: Vec<FeatureInfo> },
}

impl Node {
    fn new(model: &proto::Model, path: &str) -> Result<Self, PredictError> {
        if let Some(network) = NetworkModel::compile(model, path)? {
            return Ok(Self::Network(Box::new(network)));
        }
        let features = |features: &[proto::FeatureDescription]| features.iter().map(FeatureInfo::of).collect();
        let description = model.description.as_ref();
        let inputs = description.map_or_else(Vec::new, |description| features(&description.input));
        let outputs = description.map_or_else(Vec::new, |description| features(&description.output));
        let path = path.to_owned();
        if matches!(model.r#type, Some(Type::Pipeline(_) | Type::PipelineClassifier(_) | Type::PipelineRegressor(_))) {
            let members = walk::members(model, &path).map(|(path, member)| Self::new(member, &path));
            return Ok(Self::Pipeline { members: members.collect::<Result<_, _>>()?, path, inputs, outputs });
        }
        Ok(match Member::new(model, &path)? {
            Some(member) => Self::Member { path, inputs, outputs, member: Box::new(member) },
            None => Self::Unsupported { path, kind: crate::format::model_type(model), inputs, outputs },
        })
    }

    fn path(&self) -> &str {
        match self {
            Self::Network(network) => network.network.path(),
            Self::Pipeline { path, .. } | Self::Member { path, .. } | Self::Unsupported { path, .. } => path,
        }
    }

    fn inputs(&self) -> &[FeatureInfo] {
        match self {
            Self::Network(network) => &network.inputs,
            Self::Pipeline { inputs, .. } | Self::Member { inputs, .. } | Self::Unsupported { inputs, .. } => inputs,
        }
    }

    fn outputs(&self) -> &[FeatureInfo] {
        match self {
            Self::Network(network) => &network.outputs,
            Self::Pipeline { outputs, .. } | Self::Member { outputs, .. } | Self::Unsupported { outputs, .. } => {
                outputs
            }
        }
    }

    fn visit<'n>(&'n self, visit: &mut dyn FnMut(&'n Self)) {
        visit(self);
        if let Self::Pipeline { members, .. } = self {
            members.iter().for_each(|member| member.visit(visit));
        }
    }
}

impl Predictor {
    /// Compiles a model: its blobs are connected and its weights decoded. Models and custom layers that cannot be run are
    /// no error before they are reached, so that what comes before them can be run; see
    /// [`unsupported`](Self::unsupported).
    ///
    /// # Errors
    ///
    /// If a weight cannot be read, a parameter makes no sense, or a layer reads what nothing writes.
    pub fn new(model: &Model) -> Result<Self, PredictError> {
        Ok(Self {
            root: Node::new(model.proto(), walk::ROOT)?,
            options: Options::default(),
            stand_ins: HashMap::new(),
            notes: Mutex::default(),
        })
    }

    /// How numbers are kept between layers. Default: [`Precision::Single`].
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.options.precision = precision;
        self
    }

    /// What the random layers start from. Every prediction starts anew. Default: 0.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }

    /// How many layers a network may run in one prediction: a bound for its loops. Default: ten million.
    #[must_use]
    pub fn with_step_limit(mut self, layers: u64) -> Self {
        self.options.step_limit = layers;
        self
    }

    /// How many values a blob may have. Default: 2^30, which are 4 GiB.
    #[must_use]
    pub fn with_max_values(mut self, values: usize) -> Self {
        self.options.max_values = values;
        self
    }

    /// What computes the custom layers of a class.
    #[must_use]
    pub fn with_custom_layer(mut self, class_name: impl Into<String>, class: impl CustomLayer + 'static) -> Self {
        self.options.custom.insert(class_name.into(), Arc::new(class));
        self
    }

    /// What stands in for the model of a path, such as `model/pipeline[0]`: any that is no network, and those that
    /// cannot be run.
    #[must_use]
    pub fn with_stand_in(
        mut self,
        path: impl Into<String>,
        stand_in: impl Fn(&Features) -> Result<Features, Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
    ) -> Self {
        self.stand_ins.insert(path.into(), Arc::new(stand_in));
        self
    }

    /// The inputs that a model describes, without compiling it.
    pub fn inputs_of(model: &Model) -> Vec<FeatureInfo> {
        let description = model.proto().description.as_ref();
        description.map_or_else(Vec::new, |description| description.input.iter().map(FeatureInfo::of).collect())
    }

    /// The model's inputs.
    pub fn inputs(&self) -> &[FeatureInfo] {
        self.root.inputs()
    }

    /// The model's outputs.
    pub fn outputs(&self) -> &[FeatureInfo] {
        self.root.outputs()
    }

    /// What cannot be run: models by path and kind, custom layers by place and class. Empty if all can.
    pub fn unsupported(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.root.visit(&mut |node| match node {
            Node::Unsupported { path, kind, .. } if !self.stand_ins.contains_key(path) => {
                all.push(format!("{path} ({kind})"));
            }
            Node::Network(network) => network.network.each_custom(&mut |info, class| {
                if !self.options.custom.contains_key(class) {
                    all.push(format!("{info} of the class \"{class}\""));
                }
            }),
            _ => {}
        });
        all
    }

    /// What was uncertain in the predictions so far, each statement once: neither the format's documentation nor Core ML's
    /// recorded results decide it. What was computed is stated.
    pub fn notes(&self) -> Vec<&'static str> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The outputs for some inputs.
    ///
    /// # Errors
    ///
    /// If an input is missing, unknown, or not as described, or a layer cannot be computed.
    pub fn predict(&self, features: &Features) -> Result<Features, PredictError> {
        self.predict_with(features, |_, _| {})
    }

    /// As [`predict`](Self::predict); `observe` gets every layer that has run, with its outputs, in the order of
    /// execution: in a loop, once a round.
    ///
    /// # Errors
    ///
    /// As [`predict`](Self::predict).
    pub fn predict_with(
        &self,
        features: &Features,
        mut observe: impl FnMut(&LayerInfo, &[Tensor]),
    ) -> Result<Features, PredictError> {
        self.observe(features, &mut |ran| {
            observe(&ran.step.info, ran.outputs);
            Ok(())
        })
    }

    /// As [`predict_with`](Self::predict_with), with all that is known of the layers.
    pub(crate) fn observe(&self, features: &Features, observer: &mut Observer<'_>) -> Result<Features, PredictError> {
        let known = self.root.inputs();
        for (name, _) in features.iter() {
            if !known.iter().any(|input| input.name == name) {
                let known = known.iter().map(|input| input.name.clone()).collect();
                return Err(PredictError::UnknownFeature { name: name.to_owned(), known });
            }
        }
        let mut notes = Vec::new();
        let result = self.run(&self.root, features, &mut notes, observer);
        let mut all = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.into_iter().for_each(|what| note(&mut all, what));
        result
    }

    fn run(
        &self,
        node: &Node,
        features: &Features,
        notes: &mut Vec<&'static str>,
        observer: &mut Observer<'_>,
    ) -> Result<Features, PredictError> {
        if let Some(stand_in) = self.stand_ins.get(node.path()) {
            return stand_in(features).map_err(|cause| PredictError::StandIn { path: node.path().to_owned(), cause });
        }
        match node {
            Node::Network(network) => network.predict(features, &self.options, notes, observer),
            Node::Member { path, inputs, outputs, member } => member.run(path, inputs, outputs, features),
            Node::Unsupported { path, kind, .. } => Err(PredictError::UnsupportedModel { path: path.clone(), kind }),
            Node::Pipeline { members, outputs, .. } => {
                let mut all = features.clone();
                for member in members {
                    let results = self.run(member, &all, notes, observer)?;
                    all.extend(results);
                }
                let wanted =
                    outputs.iter().filter_map(|output| Some((output.name.clone(), all.get(&output.name)?.clone())));
                Ok(wanted.collect())
            }
        }
    }

    /// What holds for every run.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }
}

impl fmt::Debug for Predictor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Predictor").field("options", &self.options).finish_non_exhaustive()
    }
}

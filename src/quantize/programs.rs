//! The weights of ML Programs: what becomes of each, and the new program and weight files.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rayon::prelude::*;

use super::config::QuantConfig;
use super::progress::Tally;
use super::report::{Outcome, Reason, WeightReport};
use super::selector::WeightInfo;
use crate::error::{ConfigError, Error, Place, QuantizeError, WeightError};
use crate::format::form::{Nbits, ProgramForm, StoredForm};
use crate::format::proto;
use crate::format::weight_params::FloatValues;
use crate::model::Model;
use crate::program::encode::{self, Prepared, Unfit};
use crate::program::form::Form;
use crate::program::opset::{self, Opset};
use crate::program::recipe::{Granularity, Kind, Table};
use crate::program::rewrite::{self, Change, Rewrite};
use crate::program::value::{BlobFiles, Tensor, TensorSpec};
use crate::program::weights::{Hold, ProgramWeight, Programs};
use crate::program::{DeploymentTarget, raise};
use crate::quantizer::{QuantizeContext, Quantizer};
use crate::weight::distortion::Distortion;
use crate::weight::{Blocks, Payload, WeightSpec, WeightView};

/// What becomes of the weights of programs.
#[derive(Debug, Default)]
pub(crate) struct ProgramPlan<'m> {
    pub(crate) programs: Programs<'m>,
    files: BlobFiles,
    pub(crate) sites: Vec<ProgramSite>,
    /// The opset of each program that changes.
    opsets: Vec<Option<Opset>>,
}

/// What was made of the programs of a model.
#[derive(Debug)]
pub(crate) struct CarriedOut {
    pub(crate) model: proto::Model,
    /// The weight files in which something changed, under the names that programs give them.
    pub(crate) files: Vec<(String, Bytes)>,
    pub(crate) weights: Vec<WeightReport>,
}

/// What becomes of one weight, in the order of [`Programs::weights`].
#[derive(Debug)]
pub(crate) struct ProgramSite {
    pub(crate) after: StoredForm,
    pub(crate) outcome: Outcome,
    quantizer: Option<Arc<dyn Quantizer>>,
    prepared: Option<Prepared>,
}

/// The weight files of a model, under the names that its programs give them.
pub(crate) fn files(model: &Model) -> BlobFiles {
    let mut files = BlobFiles::default();
    let Some(package) = model.package() else { return files };
    let folder = package.root().rsplit_once('/').map_or("", |(folder, _)| folder);
    for (path, bytes) in package.files().filter(|(path, _)| *path != package.root()) {
        if let Some(inside) = path.strip_prefix(folder).and_then(|inside| inside.strip_prefix('/')) {
            files.add(&format!("@model_path/{inside}"), bytes.clone());
        }
    }
    files
}

/// A weight that is chosen: how it is converted, and which values share a scale or a table.
struct Chosen {
    quantizer: Arc<dyn Quantizer>,
    kind: Kind,
    block: Vec<usize>,
}

impl<'m> ProgramPlan<'m> {
    /// Decides for every weight. `first` is the number of weights of networks in the model, `index` that of layers.
    ///
    /// # Errors
    /// A weight whose values cannot be read or are NaN; a program of an unknown opset, or newer than the target.
    pub(crate) fn new(
        model: &'m proto::Model,
        files: BlobFiles,
        config: &QuantConfig,
        first: usize,
        index: usize,
    ) -> Result<Self, Error> {
        let programs = Programs::of(model, index);
        let mut limits = Vec::with_capacity(programs.programs.len());
        for program in &programs.programs {
            limits.push(Limit::of(program.program, program.opset, config.target)?);
        }
        let mut chosen = Vec::with_capacity(programs.weights.len());
        for (number, weight) in programs.weights.iter().enumerate() {
            chosen.push(choose(weight, first + number, config, &limits[weight.program])?);
        }
        let prepared: Vec<Result<ProgramSite, Error>> = programs
            .weights
            .par_iter()
            .zip(chosen)
            .map(|(weight, chosen)| match chosen {
                Ok(chosen) => prepare(&programs, weight, chosen, &files, config),
                Err(reason) => Ok(kept(weight, reason)),
            })
            .collect();
        let mut sites = prepared.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut opsets: Vec<Option<Opset>> = vec![None; programs.programs.len()];
        for (weight, site) in programs.weights.iter().zip(&sites) {
            if let Some(prepared) = &site.prepared {
                let opset = &mut opsets[weight.program];
                let needed = prepared.form.opset(&weight.spec.shape).max(limits[weight.program].from);
                *opset = Some(opset.map_or(needed, |opset| opset.max(needed)));
            }
        }
        let bytes = |form: &Form, weight: &ProgramWeight<'_>| {
            form.stored_len(&weight.spec, opsets[weight.program].unwrap_or(limits[weight.program].from))
        };
        for (weight, site) in programs.weights.iter().zip(&mut sites) {
            let Some(prepared) = &site.prepared else { continue };
            let after = bytes(&prepared.form, weight);
            site.after = stored_form(&prepared.form, &weight.spec);
            // Back to floats, whichever the program has.
            let way_back = weight.stored.is_quantized() && !site.after.is_quantized();
            let target = if way_back { StoredForm::Float32 } else { site.after };
            if !config.allow_growth(target) && after >= stored_len(weight) {
                *site = kept(weight, Reason::WouldNotShrink { bytes: site.after.byte_len(weight.spec.len()) });
            }
        }
        // Only what is left asks for an opset.
        opsets.fill(None);
        for (weight, site) in programs.weights.iter().zip(&sites) {
            if let Some(prepared) = &site.prepared {
                let opset = &mut opsets[weight.program];
                let needed = prepared.form.opset(&weight.spec.shape).max(limits[weight.program].from);
                *opset = Some(opset.map_or(needed, |opset| opset.max(needed)));
            }
        }
        Ok(Self { programs, files, sites, opsets })
    }

    /// What would become of each weight, unmeasured.
    pub(crate) fn preview(self) -> impl Iterator<Item = WeightReport> {
        self.programs.weights.into_iter().zip(self.sites).map(|(weight, site)| WeightReport {
            place: weight.place,
            shape: weight.spec.shape,
            before: weight.stored,
            after: site.after,
            outcome: site.outcome,
            distortion: None,
        })
    }

    /// How many weights change, and their values.
    pub(crate) fn changed(&self) -> (usize, u64) {
        let changed = self.programs.weights.iter().zip(&self.sites).filter(|(_, site)| site.prepared.is_some());
        changed.fold((0, 0), |(weights, values), (weight, _)| (weights + 1, values + weight.spec.len() as u64))
    }

    /// The model with the changed programs, and the weight files in which something changes.
    ///
    /// # Errors
    /// A weight that cannot be read or computed.
    pub(crate) fn carry_out(
        self,
        model: proto::Model,
        config: &QuantConfig,
        tally: &Tally<'_>,
    ) -> Result<CarriedOut, Error> {
        let (rewrite, job) = self.start(&model, config, tally)?;
        let (model, files) = match rewrite {
            Some(rewrite) => rewrite::in_memory(rewrite, &|index| job.run(index))?,
            None => (model, Vec::new()),
        };
        Ok(CarriedOut { model, files, weights: job.report() })
    }

    /// What is to be written; `None` if nothing changes.
    pub(crate) fn start<'a>(
        self,
        model: &proto::Model,
        config: &'a QuantConfig,
        tally: &'a Tally<'a>,
    ) -> Result<(Option<Rewrite>, ProgramJob<'a, 'm>), Error> {
        let mut work: Vec<Work> = Vec::new();
        let mut changes = Vec::new();
        for (number, (weight, site)) in self.programs.weights.iter().zip(&self.sites).enumerate() {
            let Some(opset) = self.opsets[weight.program] else { continue };
            let change = |form: Form| Change {
                program: weight.program,
                nodes: weight.nodes.clone(),
                weight: weight.spec.clone(),
                form,
                file: weight.file.clone(),
                offset: weight.offset,
            };
            if let Some(prepared) = &site.prepared {
                changes.push(change(prepared.form.clone()));
                work.push(Work::Convert { weight: number, has_inputs: opset.has_inputs() });
            } else if opset.has_inputs()
                && let Some(raised) = self.raised(weight)?
            {
                changes.push(change(raised.form));
                work.push(Work::Raise(raised.parameters));
            }
        }
        let measured = self.sites.iter().map(|_| Mutex::new(None)).collect();
        let rewrite = if changes.is_empty() {
            None
        } else {
            let weights = self.programs.weights.iter().zip(&self.sites);
            let changed: Vec<&ProgramWeight<'_>> =
                weights.filter(|(_, site)| site.prepared.is_some()).map(|(weight, _)| weight).collect();
            let removed = self.programs.unneeded(&changed);
            Some(Rewrite::new(model, &self.files, changes, self.opsets.clone(), removed)?)
        };
        Ok((rewrite, ProgramJob { plan: self, config, tally, work, measured }))
    }

    /// A weight that stays in its form, if that is one of an older opset than the program's new one.
    fn raised(&self, weight: &ProgramWeight<'_>) -> Result<Option<raise::Raised>, Error> {
        let Some(operation) = self.programs.operation(weight) else { return Ok(None) };
        raise::raised(operation, &weight.spec, &self.files)
            .map_err(|cause| Error::ProgramWeight { place: Box::new(weight.place.clone()), cause })
    }
}

/// What is to be computed for a change.
#[derive(Debug)]
enum Work {
    Convert { weight: usize, has_inputs: bool },
    Raise(Vec<Bytes>),
}

/// Computes the parameters of weights.
#[derive(Debug)]
pub(crate) struct ProgramJob<'a, 'm> {
    plan: ProgramPlan<'m>,
    config: &'a QuantConfig,
    tally: &'a Tally<'a>,
    work: Vec<Work>,
    measured: Vec<Mutex<Option<Distortion>>>,
}

impl ProgramJob<'_, '_> {
    /// The parameters of the change with an index.
    pub(crate) fn run(&self, index: usize) -> Result<Vec<Bytes>, Error> {
        self.tally.go_on()?;
        let (number, has_inputs) = match &self.work[index] {
            Work::Raise(parameters) => return Ok(parameters.clone()),
            Work::Convert { weight, has_inputs } => (*weight, *has_inputs),
        };
        let (weight, site) = (&self.plan.programs.weights[number], &self.plan.sites[number]);
        let Some(prepared) = &site.prepared else { return Ok(Vec::new()) };
        let values = values(&self.plan.programs, weight, &self.plan.files)?;
        let custom = |values: &[f32]| custom_table(site.quantizer.as_deref(), &weight.place, values);
        let made = encode::produce(prepared, &values, has_inputs, Some(&custom), self.config.measure);
        let (parameters, sums) = made.map_err(|source| quantize_error(&weight.place, source))?;
        if let Some(sums) = sums {
            *self.measured[number].lock().unwrap_or_else(PoisonError::into_inner) = Some(Distortion::of(sums));
        }
        self.tally.done(&weight.place, weight.spec.len() as u64)?;
        Ok(parameters)
    }

    /// What became of each weight.
    pub(crate) fn report(self) -> Vec<WeightReport> {
        let ProgramPlan { programs, sites, .. } = self.plan;
        let measure = self.config.measure;
        let all = programs.weights.into_iter().zip(sites).zip(self.measured);
        let one = |((weight, site), measured): ((ProgramWeight<'_>, ProgramSite), Mutex<Option<Distortion>>)| {
            let measured = measured.into_inner().unwrap_or_else(PoisonError::into_inner);
            WeightReport {
                place: weight.place,
                shape: weight.spec.shape,
                before: weight.stored,
                after: site.after,
                distortion: if site.prepared.is_some() { measured } else { measure.then_some(Distortion::NONE) },
                outcome: site.outcome,
            }
        };
        all.map(one).collect()
    }
}

fn quantize_error(place: &Place, source: QuantizeError) -> Error {
    Error::Weight { place: Box::new(place.clone()), cause: WeightError::Quantize(source) }
}

/// The values of a weight.
pub(crate) fn values(programs: &Programs<'_>, weight: &ProgramWeight<'_>, files: &BlobFiles) -> Result<Tensor, Error> {
    programs
        .values(weight, files)
        .map_err(|cause| Error::ProgramWeight { place: Box::new(weight.place.clone()), cause })
}

/// The table that a quantizer of the caller's makes of some values.
fn custom_table(
    quantizer: Option<&dyn Quantizer>,
    place: &Place,
    values: &[f32],
) -> Result<(Vec<f32>, Vec<u8>), QuantizeError> {
    let Some(quantizer) = quantizer else { return Ok((Vec::new(), Vec::new())) };
    let blocks = Blocks::per_tensor(&[values.len()]);
    let floats = FloatValues::from(values);
    let spec = WeightSpec { place: Some(place), ..WeightSpec::new(&blocks) };
    let view = WeightView::new(&floats, spec)
        .ok_or(QuantizeError::CodeCount { found: floats.len(), expected: values.len() })?;
    match quantizer.quantize(view, &mut QuantizeContext::new())? {
        Payload::LookupTable { codes, table } => Ok((table, codes.to_vec())),
        other => Err(QuantizeError::Other(format!("a table was announced, {} was returned", other.form()).into())),
    }
}

fn kept(weight: &ProgramWeight<'_>, reason: Reason) -> ProgramSite {
    ProgramSite { after: weight.stored, outcome: Outcome::Kept(reason), quantizer: None, prepared: None }
}

/// Bytes that a weight takes as it is stored.
fn stored_len(weight: &ProgramWeight<'_>) -> u64 {
    match weight.stored {
        StoredForm::Program(_) => weight.stored.byte_len(weight.spec.len()) as u64,
        _ => crate::program::form::stored_len(&weight.spec),
    }
}

/// How far a program can be raised.
struct Limit {
    from: Opset,
    /// The newest opset that it can have, and what keeps it from a newer one.
    to: Opset,
    cause: Reason,
}

impl Limit {
    fn of(
        program: &proto::mil_spec::Program,
        from: Option<Opset>,
        target: Option<DeploymentTarget>,
    ) -> Result<Self, Error> {
        let found = || {
            let names: Vec<&str> = program.functions.values().map(|function| function.opset.as_str()).collect();
            names.join(", ")
        };
        let expected = "one of CoreML5 to CoreML9 is expected".to_owned();
        let from = from.ok_or_else(|| Error::Opset { found: found(), expected })?;
        let mut limit = Self { from, to: Opset::CORE_ML_9, cause: Reason::NotInPrograms };
        if let Some(target) = target {
            if target.opset() < from {
                let expected = format!("which {target} does not have");
                return Err(Error::Opset { found: from.to_string(), expected });
            }
            limit.to = target.opset();
        }
        if let Some(blocked) = opset::blocked(program, limit.to) {
            // The first one on the way.
            let mut to = from;
            while let Some(next) = to.next().filter(|&next| next <= limit.to && opset::blocked(program, next).is_none())
            {
                to = next;
            }
            limit.to = to;
            limit.cause = Reason::CannotBeRaised { operation: crate::program::operation_name(&blocked.operation) };
        }
        Ok(limit)
    }

    /// Fails if a form needs more.
    fn permits(&self, needed: Opset) -> Result<(), Reason> {
        match self.cause {
            _ if needed <= self.to => Ok(()),
            cause @ Reason::CannotBeRaised { .. } => Err(cause),
            _ => Err(Reason::Target { needed: DeploymentTarget::of(needed) }),
        }
    }
}

/// What is to be done with a weight, or why it stays.
fn choose(
    weight: &ProgramWeight<'_>,
    number: usize,
    config: &QuantConfig,
    limit: &Limit,
) -> Result<Result<Chosen, Reason>, Error> {
    let info = |layer_type: &'static str, field: &'_ str, check: &mut dyn FnMut(&WeightInfo<'_>)| {
        check(&WeightInfo {
            network: &weight.place.network,
            inside: &[],
            layer: None,
            layer_name: &weight.place.layer,
            layer_type,
            field,
            shape: &weight.spec.shape,
        });
    };
    let mut planned = Ok(());
    info(weight.place.layer_type, &weight.place.field, &mut |info| planned = config.check_planned(number, info));
    planned?;
    // Chosen by the first of its consumers for which something is chosen.
    let mut found: Option<Result<Arc<dyn Quantizer>, Reason>> = None;
    let own = [(weight.place.layer_type, &*weight.place.field)];
    let consumers: Cow<'_, [(&'static str, &str)]> =
        if weight.consumers.is_empty() { Cow::Borrowed(&own) } else { Cow::Borrowed(&weight.consumers) };
    for &(layer_type, field) in consumers.iter() {
        if !matches!(found, Some(Ok(_))) {
            info(layer_type, field, &mut |info| found = Some(config.choose(number, info)));
        }
    }
    let quantizer = match found {
        Some(Ok(quantizer)) => quantizer,
        Some(Err(reason)) => return Ok(Err(reason)),
        None => return Ok(Err(Reason::NotSelected)),
    };
    Ok(decide(weight, quantizer, config, limit))
}

fn decide(
    weight: &ProgramWeight<'_>,
    quantizer: Arc<dyn Quantizer>,
    config: &QuantConfig,
    limit: &Limit,
) -> Result<Chosen, Reason> {
    let TensorSpec { shape, .. } = &weight.spec;
    let kind = kind(quantizer.as_ref(), weight);
    if !kind.is_possible() {
        return Err(Reason::NotInPrograms);
    }
    let granularity = config.granularity.unwrap_or_else(|| kind.granularity());
    let is_dense = matches!(weight.stored, StoredForm::Float16 | StoredForm::Float32);
    if kind == Kind::Dequantize {
        let block = shape.clone();
        return if is_dense { Err(Reason::AlreadyStored) } else { Ok(Chosen { quantizer, kind, block }) };
    }
    match weight.hold {
        Some(Hold::Unused) => return Err(Reason::Unused),
        Some(Hold::BlockOutput) => return Err(Reason::BlockOutput),
        Some(Hold::FewDimensions) => return Err(Reason::FewDimensions),
        Some(Hold::Exact { operation }) => return Err(Reason::Positions { operation }),
        None => {}
    }
    let threshold = config.threshold();
    if weight.spec.len() <= threshold {
        return Err(Reason::Small { threshold });
    }
    if kind == Kind::Float16 && (weight.stored == StoredForm::Float16 || weight.stored == CAST) {
        return Err(Reason::AlreadyStored);
    }
    if kind == Kind::Float16 && !is_dense && weight.spec.dtype == crate::format::dtype::Dtype::Float16 {
        return Err(Reason::AlreadyStored);
    }
    // The way back was taken above.
    if weight.stored.is_quantized() && !config.requantize(StoredForm::Float16) {
        return Err(Reason::AlreadyQuantized);
    }
    if let Kind::Prune(pruning) = kind
        && pruning.is_structured()
        && !weight.consumers.iter().all(|&(kind, parameter)| matches!(kind, "conv" | "linear") && parameter == "weight")
    {
        return Err(Reason::NotStructured);
    }
    let granularity =
        if matches!(kind, Kind::Linear { .. } | Kind::Table { .. }) { granularity } else { Granularity::PerTensor };
    let block = granularity.block(shape, weight.axes).map_err(|indivisible| Reason::Indivisible {
        axis: indivisible.axis,
        len: indivisible.len,
        size: indivisible.size,
    })?;
    let needed = match kind {
        Kind::Linear { grid, .. } => Form::linear(grid, block.clone()).opset(shape),
        Kind::Table { nbits, .. } => Form::Table { nbits, block: block.clone() }.opset(shape),
        Kind::Prune(_) => Form::Sparse { ones: 0 }.opset(shape),
        _ => Form::Float16.opset(shape),
    };
    limit.permits(needed)?;
    Ok(Chosen { quantizer, kind, block })
}

const CAST: StoredForm = StoredForm::Program(ProgramForm::Cast);

/// What a quantizer does with a weight: its recipe, or the table that it announces.
fn kind(quantizer: &dyn Quantizer, weight: &ProgramWeight<'_>) -> Kind {
    if let Some(recipe) = quantizer.recipe() {
        return recipe.0;
    }
    let blocks = Blocks::per_tensor(&weight.spec.shape);
    match quantizer.stored_form(&WeightSpec { place: Some(&weight.place), ..WeightSpec::new(&blocks) }) {
        StoredForm::LookupTable { nbits } => Kind::Table { nbits: nbits.get(), table: Table::Custom },
        _ => Kind::None,
    }
}

/// Fails if a configuration asks programs for what they do not have.
pub(crate) fn require_possible(config: &QuantConfig) -> Result<(), ConfigError> {
    let impossible = |quantizer: &Arc<dyn Quantizer>| match quantizer.recipe() {
        Some(recipe) => !recipe.0.is_possible(),
        None => false,
    };
    if config.quantizers().any(impossible) { Err(ConfigError::NotInPrograms) } else { Ok(()) }
}

fn prepare(
    programs: &Programs<'_>,
    weight: &ProgramWeight<'_>,
    chosen: Chosen,
    files: &BlobFiles,
    config: &QuantConfig,
) -> Result<ProgramSite, Error> {
    let Chosen { quantizer, kind, block } = chosen;
    let values = values(programs, weight, files)?;
    let prepared = match encode::prepare(kind, &values, block) {
        Err(found) if config.program_fallback(false) => {
            return Ok(kept(weight, Reason::NonFinite { index: found.index }));
        }
        Err(found) => return Err(quantize_error(&weight.place, found.into())),
        Ok(Ok(prepared)) => prepared,
        Ok(Err(Unfit::Infinite { index })) if !config.program_fallback(true) => {
            return Err(quantize_error(&weight.place, QuantizeError::NonFinite { index, value: f32::INFINITY }));
        }
        Ok(Err(unfit)) => {
            let reason = match unfit {
                Unfit::Infinite { index } => Reason::NonFinite { index },
                Unfit::BeyondFloat16 { index } => Reason::BeyondFloat16 { index },
                Unfit::Scale => Reason::ScaleRange,
                Unfit::NotSparse => Reason::NotSparse,
                Unfit::LongBlocks => Reason::LongBlocks,
            };
            return Ok(kept(weight, reason));
        }
    };
    let after = stored_form(&prepared.form, &weight.spec);
    Ok(ProgramSite { after, outcome: Outcome::Converted, quantizer: Some(quantizer), prepared: Some(prepared) })
}

/// A form as reports name it.
fn stored_form(form: &Form, weight: &TensorSpec) -> StoredForm {
    let float_bytes = usize::from(weight.dtype.bits()) / 8;
    let count = |block: &[usize]| weight.shape.iter().zip(block).map(|(size, block)| size / block).product();
    let bits = |nbits: u8| Nbits::new(nbits.into()).unwrap_or(Nbits::EIGHT);
    StoredForm::Program(match form {
        Form::Dense if float_bytes == 2 => return StoredForm::Float16,
        Form::Dense => return StoredForm::Float32,
        Form::Float16 => ProgramForm::Cast,
        Form::Linear { dtype, has_offset, block } => {
            let scales = count(block);
            let offsets = if *has_offset { scales } else { 0 };
            ProgramForm::Linear { nbits: bits(dtype.bits()), scales, offsets, float_bytes }
        }
        Form::Table { nbits, block } => ProgramForm::Table { nbits: bits(*nbits), tables: count(block), float_bytes },
        Form::Sparse { ones } => ProgramForm::Sparse { kept: *ones, float_bytes },
    })
}

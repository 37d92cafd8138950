//! The menu of a model: what each weight can be with its bytes and its cost, and the best choice from it.
//!
//! Beside the whole menu, that of every single mode is solved, and every mode in one number of bits for all weights is
//! known from the start: the plan is no worse than any of these.

use std::ops::Range;

use prost::Message;
use rayon::prelude::*;

use super::candidates::Candidate;
use super::frontier::{Choice, Float, Group, Point};
use super::knapsack::{self, Bound};
use super::size::LayerSize;
use crate::format::form::StoredForm;
use crate::format::proto;
use crate::network::{params, weights};
use crate::quantize::file_len;
use crate::quantize::method::Method;
use crate::quantize::report::{Outcome, Reason};
use crate::quantize::sites::Site;
use crate::weight::distortion;

/// What bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counting {
    /// Those that a layer takes in the file.
    File,
    /// Those of codes, scales, biases and tables alone.
    Weights,
}

/// The index of a candidate for each weight.
pub(super) type Picks = Vec<usize>;

/// Plans of a mode, in one number of bits each: the method for each weight.
pub(super) type Uniform = Vec<Vec<Method>>;

/// The weights of a model with what they can be.
pub(super) struct Menu<'m> {
    model: &'m proto::Model,
    sites: Vec<Site<'m>>,
    candidates: Vec<Vec<Candidate>>,
    /// What the relative error of a weight counts.
    weighting: Vec<f64>,
    /// Whether Core ML does not check a weight's float type.
    unchecked: Vec<bool>,
    layers: Vec<Layer>,
    counting: Counting,
    /// For each mode and each method of it, what the weights become if it is taken for all of them.
    modes: Vec<Uniform>,
    /// Made anew when a candidate was measured.
    problems: Vec<Problem>,
}

/// A layer with weights.
struct Layer {
    sites: Range<usize>,
    size: LayerSize,
}

/// The points of each layer, and plans that are known.
struct Problem {
    classes: Vec<Vec<Point>>,
    known: Vec<Vec<usize>>,
}

/// Estimates are at most this far from what is measured, relatively, and mostly much nearer.
const ESTIMATED: f64 = 2e-3;
/// The same for small weights, where only the order of adding differs.
const ROUNDING: f64 = 1e-4;
/// What rounding of a sum may add.
const LAST_PLACES: f64 = 1e-12;
/// Times that the limit of a file is lowered because of the lengths of the messages around the layers.
const MAX_LOWERED: usize = 64;

impl<'m> Menu<'m> {
    pub(super) fn new(
        model: &'m proto::Model,
        sites: Vec<Site<'m>>,
        candidates: Vec<Vec<Candidate>>,
        weighting: Vec<f64>,
        modes: Vec<Uniform>,
        counting: Counting,
    ) -> Self {
        let mut layers = Vec::new();
        let mut first = 0;
        weights::each(model, &mut |layer| {
            let count = sites[first..].iter().take_while(|site| site.place.index == layer.at.index).count();
            let range = first..first + count;
            first = range.end;
            if count > 0 {
                layers.push(Layer { size: LayerSize::new(layer.layer, &sites[range.clone()]), sites: range });
            }
        });
        let unchecked = sites.iter().map(|site| site.outcome == Outcome::Kept(Reason::LeftAlone)).collect();
        Self { model, sites, candidates, weighting, unchecked, layers, counting, modes, problems: Vec::new() }
    }

    /// The weights, each with its candidate.
    pub(super) fn chosen(&self, picks: &[usize]) -> impl Iterator<Item = (&Site<'m>, Candidate)> {
        let picked = self.candidates.iter().zip(picks).map(|(candidates, &pick)| candidates[pick]);
        self.sites.iter().zip(picked)
    }

    /// The sum of what the errors cost.
    pub(super) fn cost(&self, picks: &[usize]) -> f64 {
        let costs =
            self.chosen(picks).zip(&self.weighting).map(|((_, candidate), weighting)| cost(candidate, *weighting));
        costs.sum()
    }

    /// The ratio of signal to noise in decibels, each weight counted by its weighting.
    fn sqnr_db(&self, picks: &[usize]) -> f64 {
        distortion::decibels(distortion::relative(self.cost(picks), self.weighting.iter().sum()))
    }

    /// The exact length of the model's file.
    pub(super) fn file_len(&mut self, picks: &[usize]) -> u64 {
        for ((site, candidates), &pick) in self.sites.iter_mut().zip(&self.candidates).zip(picks) {
            site.after = candidates[pick].form;
            site.outcome = if pick == 0 { Outcome::Kept(Reason::Planned) } else { Outcome::Converted };
        }
        file_len(self.model, &self.sites) as u64
    }

    /// The least error in a file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// The bytes of the smallest file, if that is larger.
    pub(super) fn for_file(&mut self, limit: u64) -> Result<Picks, u64> {
        let smallest = self.smallest();
        let (least, layers) = (self.file_len(&smallest), self.bytes(&smallest));
        if least > limit {
            return Err(least);
        }
        // What is around the layers is smallest with them. It may grow by a few bytes, where lengths are stated.
        let around = least - layers;
        let mut budget = limit - around;
        for _ in 0..MAX_LOWERED {
            let Some(picks) = self.best(Bound::Bytes(budget)) else { break };
            if self.file_len(&picks) <= limit {
                return Ok(self.settled(picks, budget));
            }
            budget = self.bytes(&picks) - 1;
        }
        // As if what is around were as large as in the model that is.
        let kept = vec![0; self.sites.len()];
        let around = self.file_len(&kept).saturating_sub(self.bytes(&kept)).max(around);
        let picks = self.best(Bound::Bytes(limit.saturating_sub(around)));
        Ok(picks.filter(|picks| self.file_len(picks) <= limit).unwrap_or(smallest))
    }

    /// The least error in weights of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// The fewest bytes there can be, if these are more.
    pub(super) fn for_weights(&mut self, limit: u64) -> Result<Picks, u64> {
        match self.best(Bound::Bytes(limit)) {
            Some(picks) => Ok(self.settled(picks, limit)),
            None => {
                let smallest = self.smallest();
                Err(self.bytes(&smallest))
            }
        }
    }

    /// The fewest bytes with at least this ratio of signal to noise, in decibels: measured, not estimated.
    pub(super) fn for_sqnr(&mut self, target: f64) -> Picks {
        let limit = self.weighting.iter().sum::<f64>() * 10_f64.powf(-target / 10.0);
        let limit = limit.max(0.0) * (1.0 + LAST_PLACES);
        for uniform in self.uniform() {
            if (self.cost(&uniform) / limit - 1.0).abs() <= ESTIMATED {
                self.measure(&uniform);
            }
        }
        let mut bound = limit * (1.0 + ROUNDING);
        loop {
            // With each round more is measured, or the bound falls below another plan.
            let Some(picks) = self.best(Bound::Cost(bound)) else { return vec![0; self.sites.len()] };
            self.measure(&picks);
            if self.sqnr_db(&picks) >= target {
                return picks;
            }
            bound = bound.min(limit).min(self.cost(&picks) * (1.0 - LAST_PLACES));
        }
    }

    /// The plan, or one of a single method for all weights that is better once both are measured.
    fn settled(&mut self, picks: Picks, limit: u64) -> Picks {
        let near = self.cost(&picks) * (1.0 + ESTIMATED);
        let uniform = self.uniform();
        let rivals: Vec<Picks> =
            uniform.into_iter().filter(|rival| *rival != picks && self.cost(rival) <= near).collect();
        let rivals: Vec<Picks> =
            rivals.into_iter().filter(|rival| self.agree(rival) && self.bytes(rival) <= limit).collect();
        if rivals.is_empty() {
            return picks;
        }
        let plans: Vec<Picks> = std::iter::once(picks).chain(rivals).collect();
        plans.iter().for_each(|plan| self.measure(plan));
        let by_cost = |a: &&Picks, b: &&Picks| self.cost(a).total_cmp(&self.cost(b));
        plans.iter().min_by(by_cost).cloned().unwrap_or_default()
    }

    /// Measures the candidates of a plan.
    fn measure(&mut self, picks: &[usize]) {
        let weights = self.sites.par_iter().zip(&mut self.candidates).zip(picks);
        weights.for_each(|((site, candidates), &pick)| candidates[pick].measure(site));
        self.problems.clear();
    }

    /// The plans of a single method for all weights that can take it.
    fn uniform(&self) -> Vec<Picks> {
        let pick = |(candidates, method): (&Vec<Candidate>, &Method)| {
            candidates.iter().position(|candidate| candidate.method == *method).unwrap_or(0)
        };
        let picks = |methods: &Vec<Method>| self.candidates.iter().zip(methods).map(pick).collect();
        self.modes.iter().flatten().map(picks).collect()
    }

    /// The plan of the smallest file.
    fn smallest(&mut self) -> Picks {
        self.prepare();
        let whole = self.problems.first();
        whole.iter().flat_map(|problem| &problem.classes).flat_map(|class| &class[0].picks).copied().collect()
    }

    /// The bytes that count in a plan.
    fn bytes(&mut self, picks: &[usize]) -> u64 {
        let Self { sites, candidates, layers, counting, .. } = self;
        let of = |layer: &mut Layer| {
            let range = layer.sites.clone();
            layer.bytes(&sites[range.clone()], &candidates[range.clone()], &picks[range], *counting)
        };
        layers.iter_mut().map(of).sum()
    }

    /// Whether the float weights of each layer agree in their type.
    fn agree(&self, picks: &[usize]) -> bool {
        self.layers.iter().all(|layer| {
            let all = |site: usize| (0..self.candidates[site].len()).collect::<Vec<_>>();
            let indices: Vec<Vec<usize>> = layer.sites.clone().map(all).collect();
            self.group(layer, &indices).agrees(&picks[layer.sites.clone()])
        })
    }

    /// The best plan within a bound; `None` if there is none.
    fn best(&mut self, bound: Bound) -> Option<Picks> {
        self.prepare();
        let solved: Vec<Option<(f64, Picks)>> = self
            .problems
            .par_iter()
            .map(|problem| {
                let plan = knapsack::solve(&problem.classes, bound, &problem.known)?;
                let points: Vec<&Point> = problem.classes.iter().zip(plan).map(|(class, pick)| &class[pick]).collect();
                let goal = points.iter().map(|point| match bound {
                    Bound::Bytes(_) => point.cost,
                    Bound::Cost(_) => point.bytes as f64,
                });
                Some((goal.sum(), points.iter().flat_map(|point| &point.picks).copied().collect()))
            })
            .collect();
        // Of equals the first: that of the whole menu.
        solved.into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, picks)| picks)
    }

    /// Makes the problems, unless they are made: that of the whole menu, then those of the single modes if there are
    /// several.
    fn prepare(&mut self) {
        if !self.problems.is_empty() {
            return;
        }
        let uniform = self.uniform();
        let mut layers = std::mem::take(&mut self.layers);
        let single = self.modes.iter().filter(|mode| self.modes.len() > 1 && !mode.is_empty()).map(Some);
        let modes = std::iter::once(None).chain(single);
        let problems: Vec<Problem> = modes.map(|mode| self.problem(&mut layers, mode, &uniform)).collect();
        (self.problems, self.layers) = (problems, layers);
    }

    /// The problem of one mode only, or all.
    fn problem(&self, layers: &mut [Layer], mode: Option<&Uniform>, uniform: &[Picks]) -> Problem {
        let allowed = |site: usize, pick: usize| {
            let method = self.candidates[site][pick].method;
            method == Method::Keep || mode.is_none_or(|mode| mode.iter().any(|methods| methods[site] == method))
        };
        // Of the uniform plans those that are part of it.
        let is_part = |picks: &&Picks| picks.iter().enumerate().all(|(site, &pick)| allowed(site, pick));
        let uniform: Vec<&Picks> = uniform.iter().filter(is_part).collect();
        let mut known = vec![Vec::new(); uniform.len()];
        let mut classes = Vec::new();
        for layer in layers {
            let range = layer.sites.clone();
            let indices = |site: usize| (0..self.candidates[site].len()).filter(|&pick| allowed(site, pick)).collect();
            let indices: Vec<Vec<usize>> = range.clone().map(indices).collect();
            let group = self.group(layer, &indices);
            let original = |picks: &[usize]| -> Picks {
                picks.iter().zip(&indices).map(|(&pick, indices)| indices[pick]).collect()
            };
            let within = |picks: &Picks| -> Picks {
                let position = |(pick, indices): (&usize, &Vec<usize>)| indices.iter().position(|index| index == pick);
                picks[range.clone()].iter().zip(&indices).map(|both| position(both).unwrap_or(0)).collect()
            };
            let also: Vec<Picks> = uniform.iter().map(|picks| within(picks)).collect();
            let (sites, candidates, counting) =
                (&self.sites[range.clone()], &self.candidates[range.clone()], self.counting);
            let mut bytes = |picks: &[usize]| layer.bytes(sites, candidates, &original(picks), counting);
            let mut points = group.frontier(&also, &mut bytes);
            for (known, also) in known.iter_mut().zip(&also) {
                // One that does not agree becomes what it would be without that method.
                let kept = vec![0; also.len()];
                let also = if group.agrees(also) { also } else { &kept };
                let bytes = bytes(also);
                known.push(points.partition_point(|point| point.bytes <= bytes).saturating_sub(1));
            }
            points.iter_mut().for_each(|point| point.picks = original(&point.picks));
            classes.push(points);
        }
        Problem { classes, known }
    }

    /// The weights of a layer with some of their candidates.
    fn group(&self, layer: &Layer, indices: &[Vec<usize>]) -> Group {
        let weight = |(site, indices): (usize, &Vec<usize>)| {
            let choice = |&index: &usize| self.choice(site, self.candidates[site][index]);
            indices.iter().map(choice).collect()
        };
        Group { weights: layer.sites.clone().zip(indices).map(weight).collect() }
    }

    fn choice(&self, site: usize, candidate: Candidate) -> Choice {
        let bytes = match self.counting {
            Counting::File => {
                let len = encoded_len(&self.sites[site], &candidate);
                len + prost::length_delimiter_len(len)
            }
            Counting::Weights => candidate.form.byte_len(self.sites[site].shape.units),
        };
        let float = match candidate.form {
            _ if self.unchecked[site] => Float::Free,
            StoredForm::Float16 => Float::Half,
            StoredForm::Float32 => Float::Single,
            _ => Float::Free,
        };
        Choice { bytes: bytes as u64, cost: cost(candidate, self.weighting[site]), float }
    }
}

impl Layer {
    /// The bytes that count in the layer's weights, chosen like this.
    fn bytes(&mut self, sites: &[Site<'_>], candidates: &[Vec<Candidate>], picks: &[usize], counting: Counting) -> u64 {
        let chosen = || sites.iter().zip(candidates.iter().zip(picks).map(|(candidates, &pick)| &candidates[pick]));
        match counting {
            Counting::File => {
                let is_requantized = |(site, candidate): (&Site<'_>, &Candidate)| {
                    site.before == StoredForm::Int8 && candidate.method != Method::Keep
                };
                let requantized = chosen().any(is_requantized);
                self.size.bytes(chosen().map(|(site, candidate)| encoded_len(site, candidate)), requantized)
            }
            Counting::Weights => {
                chosen().map(|(site, candidate)| candidate.form.byte_len(site.shape.units) as u64).sum()
            }
        }
    }
}

fn cost(candidate: Candidate, weighting: f64) -> f64 {
    if candidate.relative_error == 0.0 { 0.0 } else { weighting * candidate.relative_error }
}

/// The length of a weight's message.
fn encoded_len(site: &Site<'_>, candidate: &Candidate) -> usize {
    match candidate.method {
        Method::Keep => site.params.encoded_len(),
        _ => params::encoded_len(candidate.form, site.shape.units, site.params.is_updatable),
    }
}

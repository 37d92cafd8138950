//! Samples that are drawn, for when there are none.

use ndarray::ArrayD;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{EvaluateError, Sample, Source, described};
use crate::calibrate::{dead_leaves, tokens, vocabulary};
use crate::model::{Model, walk};
use crate::network::layers::is_recurrent;
use crate::predict::{FeatureInfo, FeatureKind, Features, Value};

/// Steps of a sequence.
const STEPS: usize = 32;

/// What is drawn for the inputs of a model.
pub(super) struct Synthetic {
    draws: Vec<(String, Draw)>,
    count: usize,
    seed: u64,
}

enum Draw {
    /// Values of a shape from 0 to `top`; pictures where its last axes are channels, height and width.
    Values { shape: Vec<usize>, top: f32, pictures: bool },
    /// Whole numbers below a number of words.
    Tokens { shape: Vec<usize>, words: usize },
    /// A number.
    Number,
}

impl Synthetic {
    pub(super) fn new(model: &Model, inputs: Vec<FeatureInfo>, count: usize, seed: u64) -> Result<Self, EvaluateError> {
        let mut layers = Vec::new();
        let mut exact = true;
        walk::each_model(model.proto(), walk::ROOT, &mut |_, model| {
            if let Some((own, mapping)) = walk::network(model) {
                exact &= walk::is_exact(mapping);
                layers.extend(own);
            }
        });
        let sequences = !exact && layers.iter().any(|layer| is_recurrent(layer));
        let draw = |input: &FeatureInfo| -> Result<Draw, EvaluateError> {
            Ok(match &input.kind {
                FeatureKind::Image { height, width, order, .. } => {
                    Draw::Values { shape: vec![order.channels(), *height, *width], top: 255.0, pictures: true }
                }
                FeatureKind::Array { shape, .. } => {
                    let mut shape: Vec<usize> = shape.iter().map(|&size| size.max(1)).collect();
                    let pictures = shape.len() >= 2;
                    if shape.len() == 1 && sequences {
                        shape.splice(0..0, [STEPS, 1]);
                    }
                    match vocabulary(layers.iter().copied(), &input.name) {
                        Some(words) => Draw::Tokens { shape, words },
                        None => Draw::Values { shape, top: 1.0, pictures },
                    }
                }
                FeatureKind::Int64 | FeatureKind::Double => Draw::Number,
                _ => {
                    let what = format!("nothing can be drawn for the input \"{}\"", input.name);
                    return Err(EvaluateError::Inputs { what, inputs: described(&inputs) });
                }
            })
        };
        let needed = inputs.iter().filter(|input| !input.optional);
        let draws = needed.map(|input| draw(input).map(|draw| (input.name.clone(), draw))).collect::<Result<_, _>>()?;
        Ok(Self { draws, count, seed })
    }
}

impl Draw {
    fn value(&self, rng: &mut Pcg64Mcg) -> Option<Value> {
        let (shape, values) = match self {
            Self::Number => return Some(Value::Double(rng.random_range(0.0..1.0))),
            Self::Tokens { shape, words } => (shape, tokens(shape.iter().product(), *words, rng)),
            Self::Values { shape, top, pictures: true } => {
                let (channels, height, width) = match shape[..] {
                    [.., channels, height, width] => (channels, height, width),
                    [height, width] => (1, height, width),
                    _ => return None,
                };
                let pictures = shape.iter().product::<usize>() / (channels * height * width).max(1);
                let pictures = (0..pictures).flat_map(|_| dead_leaves(channels, height, width, rng));
                (shape, pictures.map(|value| top * value).collect())
            }
            Self::Values { shape, top, .. } => {
                (shape, (0..shape.iter().product()).map(|_| rng.random_range(0.0..*top)).collect())
            }
        };
        Some(ArrayD::from_shape_vec(&shape[..], values).ok()?.into())
    }
}

impl Source for Synthetic {
    fn len(&self) -> usize {
        self.count
    }

    fn get(&self, index: usize) -> Result<Sample, EvaluateError> {
        // Each sample has a stream of its own, so that it does not depend on which were drawn before.
        let mut rng = Pcg64Mcg::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index as u64);
        let values = self.draws.iter().filter_map(|(name, draw)| Some((name.clone(), draw.value(&mut rng)?)));
        let features: Features = values.collect();
        Ok(Sample::new(format!("synthetic {index}"), features))
    }
}

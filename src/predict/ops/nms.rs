//! `NonMaximumSuppression`: the best boxes that do not overlap much.
//!
//! Boxes are `[batch, n, 4]` as centre x, centre y, width, height; scores `[batch, n, classes]`, of which the largest
//! counts. From the best on, a box is kept if its intersection over union with every kept box (of its class, if
//! classes are suppressed apart) is at most the threshold. Overlaps are computed in float64.

use super::checks::{Outputs, count, length, misfit, parameter, rank, scalar, tensor, values, whole};
use super::{Context, uncertain};
use crate::format::proto::NonMaximumSuppressionLayerParams;
use crate::predict::tensor::{LayerError, Tensor};

/// One box: its edges and area.
#[derive(Clone, Copy)]
struct Area {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
    area: f64,
}

impl Area {
    fn new(&[x, y, width, height]: &[f32; 4]) -> Self {
        let [x, y, width, height] = [x, y, width, height].map(f64::from);
        let (left, top) = (x - width / 2.0, y - height / 2.0);
        Self { left, top, right: left + width, bottom: top + height, area: width * height }
    }

    /// Intersection over union; 0 without a union.
    fn overlap(&self, other: &Self) -> f64 {
        let width = (self.right.min(other.right) - self.left.max(other.left)).max(0.0);
        let height = (self.bottom.min(other.bottom) - self.top.max(other.top)).max(0.0);
        let shared = width * height;
        let union = self.area + other.area - shared;
        if union > 0.0 { shared / union } else { 0.0 }
    }
}

pub(super) fn non_maximum_suppression(
    params: &NonMaximumSuppressionLayerParams,
    inputs: &[Tensor],
    cx: &mut Context,
) -> Outputs {
    let inputs = count(inputs, 2..=5, "two to five")?;
    let (boxes, scores) = (&inputs[0], &inputs[1]);
    rank(boxes, 0, 3)?;
    rank(scores, 1, 3)?;
    if boxes.shape()[2] != 4 || boxes.shape()[..2] != scores.shape()[..2] {
        return Err(misfit(&[boxes, scores], ": [batch, n, 4] and [batch, n, classes] are needed"));
    }
    let threshold = |at: usize, value: f32| inputs.get(at).map_or(Ok(value), |x| scalar(x, at)).map(f64::from);
    let overlap = threshold(2, params.iou_threshold)?;
    let least = threshold(3, params.score_threshold)?;
    let most = match inputs.get(4) {
        Some(most) => usize::try_from(whole(scalar(most, 4)?, cx.max_values)?).ok(),
        None => Some(length("maxBoxes", params.max_boxes)?),
    };
    let most = most.filter(|&most| most >= 1);
    let most = most.ok_or_else(|| parameter("maxBoxes", params.max_boxes, "at least 1"))?;
    let (batch, n, classes) = (boxes.shape()[0], boxes.shape()[1], scores.shape()[2]);
    if n == 0 || classes == 0 {
        return Err(LayerError::InputShape {
            input: 1,
            found: scores.shape().to_vec(),
            expected: "at least one box and one class".into(),
        });
    }
    let [box_size, score_size, size] = [4, classes, 1].map(|each| cx.size(&[batch, most, each]));
    let (mut out_boxes, mut out_scores, mut out_indices) =
        (vec![0.0; box_size?], vec![0.0; score_size?], vec![-1.0; size?]);
    let mut counts = Vec::with_capacity(batch);
    let (boxes, scores) = (values(boxes), values(scores));
    for b in 0..batch {
        let boxes = boxes[b * n * 4..][..n * 4].as_chunks::<4>().0;
        let scores = &scores[b * n * classes..][..n * classes];
        let of = |at: usize| &scores[at * classes..][..classes];
        let class: Vec<usize> = (0..n).map(|at| super::reduce::first_max(of(at)) as usize).collect();
        let best: Vec<f32> = (0..n).map(|at| of(at)[class[at]]).collect();
        let equal = best.iter().any(|&score| f64::from(score) == least);
        let mut kept: Vec<(usize, Area)> = Vec::new();
        let order = super::sort::best_first(&best);
        for &at in &order {
            if kept.len() == most {
                break;
            }
            // A score that is not a number is not above the threshold.
            if best[at].is_nan() || f64::from(best[at]) <= least {
                continue;
            }
            let area = Area::new(&boxes[at]);
            let free = kept.iter().all(|(other, kept)| {
                (params.per_class_suppression && class[*other] != class[at]) || area.overlap(kept) <= overlap
            });
            if free {
                kept.push((at, area));
            }
        }
        if equal {
            cx.note(uncertain::SUPPRESSION);
        }
        if kept.is_empty() {
            kept.extend(order.first().map(|&at| (at, Area::new(&boxes[at]))));
        }
        for (slot, &(at, _)) in kept.iter().enumerate() {
            let slot = b * most + slot;
            out_boxes[slot * 4..][..4].copy_from_slice(&boxes[at]);
            out_scores[slot * classes..][..classes].copy_from_slice(of(at));
            out_indices[slot] = at as f32;
        }
        counts.push(kept.len() as f32);
    }
    Ok(vec![
        tensor(&[batch, most, 4], out_boxes)?,
        tensor(&[batch, most, classes], out_scores)?,
        tensor(&[batch, most], out_indices)?,
        tensor(&[batch], counts)?,
    ])
}

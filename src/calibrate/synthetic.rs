//! Samples for when there are none: pictures of dead leaves, and the words of embeddings.
//!
//! Overlapping shapes that hide each other have edges, flat areas and objects of all sizes, as photographs do, and so
//! give filters something to answer to (Lee, Mumford and Huang, "Occlusion models for natural images", 2001). A picture
//! has 3 to 13 rectangles and ellipses, half-axes log-uniform between 5 and 50 % of the shorter side, at any angle,
//! with a random value a channel, on black.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use std::f32::consts::PI;
use std::ops::Range;

use crate::format::proto::NeuralNetworkLayer;
use crate::network::layers::words;

/// Fewest and most shapes in a picture.
const SHAPES: std::ops::RangeInclusive<u32> = 3..=13;
/// Shares of the shorter side that half-axes have.
const HALF_AXES: Range<f32> = 0.05..0.5;

/// Random whole numbers below `words`, each as likely, as float32.
pub(crate) fn tokens(count: usize, words: usize, rng: &mut Pcg64Mcg) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(0..words.max(1)) as f32).collect()
}

/// A picture of `channels` planes of `height` x `width` values in 0..1.
pub(crate) fn dead_leaves(channels: usize, height: usize, width: usize, rng: &mut Pcg64Mcg) -> Vec<f32> {
    let plane = height * width;
    let mut picture = vec![0.0; channels * plane];
    let side = height.min(width) as f32;
    for _ in 0..rng.random_range(SHAPES) {
        let is_ellipse: bool = rng.random();
        let center = (rng.random_range(0.0..1.0_f32) * height as f32, rng.random_range(0.0..1.0_f32) * width as f32);
        let mut half_axis = || {
            let exponent: f32 = rng.random_range(0.0..1.0);
            side * HALF_AXES.start * (HALF_AXES.end / HALF_AXES.start).powf(exponent)
        };
        let axes = (half_axis(), half_axis());
        let (sine, cosine) = rng.random_range(0.0..PI).sin_cos();
        let values: Vec<f32> = (0..channels).map(|_| rng.random_range(0.0..1.0)).collect();
        for row in 0..height {
            for column in 0..width {
                let (down, right) = (row as f32 + 0.5 - center.0, column as f32 + 0.5 - center.1);
                let along = (cosine * right + sine * down) / axes.0;
                let across = (cosine * down - sine * right) / axes.1;
                let inside = if is_ellipse {
                    along * along + across * across <= 1.0
                } else {
                    along.abs() <= 1.0 && across.abs() <= 1.0
                };
                if inside {
                    for (plane, value) in picture.chunks_mut(plane).zip(&values) {
                        plane[row * width + column] = *value;
                    }
                }
            }
        }
    }
    picture
}

/// The number of words, if an input goes into an embedding.
pub(crate) fn vocabulary<'m>(layers: impl IntoIterator<Item = &'m NeuralNetworkLayer>, input: &str) -> Option<usize> {
    let reads = |layer: &&NeuralNetworkLayer| layer.input.iter().any(|name| name == input);
    layers.into_iter().filter(reads).find_map(words)
}

#[cfg(test)]
mod tests {
    use super::dead_leaves;
    use crate::calibrate::moments::generator;

    #[test]
    fn pictures_have_shapes_of_one_value_and_differ() {
        let mut rng = generator(7);
        let pictures: Vec<Vec<f32>> = (0..50).map(|_| dead_leaves(3, 20, 30, &mut rng)).collect();
        let mut covered = 0;
        for picture in &pictures {
            assert_eq!(picture.len(), 3 * 20 * 30);
            assert!(picture.iter().all(|value| (0.0..1.0).contains(value)));
            let mut values: Vec<u32> = picture[..600].iter().map(|value| value.to_bits()).collect();
            covered += values.iter().filter(|&&value| value != 0).count();
            values.sort_unstable();
            values.dedup();
            assert!((1..=14).contains(&values.len()), "{} values", values.len());
        }
        assert!((6_000..27_000).contains(&covered), "{covered} of 30000");
        assert_ne!(pictures[0], pictures[1]);
        assert_eq!(pictures[0], dead_leaves(3, 20, 30, &mut generator(7)));
    }
}

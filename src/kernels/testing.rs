//! What the tests of the kernels share.

use super::Layout;
use super::dequantize::{Stored, decode};
use super::errors::ErrorSums;
use proptest::prelude::*;

/// Little-endian bytes of float32 values, at an odd address.
pub(super) struct Bytes(Vec<u8>);

impl Bytes {
    pub(super) fn new(values: &[f32]) -> Self {
        // Allocations are aligned, so what follows the first byte is not.
        Self([0].into_iter().chain(values.iter().flat_map(|value| value.to_le_bytes())).collect())
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[1..]
    }
}

/// The float32 values of little-endian bytes.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// The channel of each weight.
pub(super) fn channel_of(layout: Layout) -> impl Fn(usize) -> usize {
    move |index| {
        let (slab, in_slab) = (index / (layout.len() / layout.slabs), index % (layout.len() / layout.slabs));
        slab * layout.count + in_slab / layout.inner % layout.count
    }
}

/// Weights of one kind or another: ordinary, constant, subnormal, of any magnitude, signed zeros.
fn weight() -> impl Strategy<Value = BoxedStrategy<f32>> {
    prop_oneof![
        Just((-1.0_f32..1.0).boxed()),
        any::<f32>().prop_map(|value| Just(if value.is_finite() { value } else { 0.25 }).boxed()),
        Just((-300_i32..300).prop_map(|units| units as f32 * f32::from_bits(1)).boxed()),
        (-40_i32..36).prop_map(|exponent| (-1.0_f32..1.0).prop_map(move |value| value * 10_f32.powi(exponent)).boxed()),
        Just(prop_oneof![Just(0.0_f32), Just(-0.0), Just(1e-9)].boxed()),
        Just((-20_i32..=20).prop_map(|halves| halves as f32 / 2.0).boxed()),
    ]
}

/// A layout and finite weights for it.
pub(super) fn tensor() -> impl Strategy<Value = (Layout, Vec<f32>)> {
    let layout = (1_usize..4, 1_usize..4, 1_usize..20, prop_oneof![1_usize..12, 1_usize..70])
        .prop_map(|(slabs, outer, count, inner)| Layout { slabs, outer, count, inner });
    (layout, weight()).prop_flat_map(|(layout, weight)| {
        let len = layout.len();
        (Just(layout), prop::collection::vec(weight, len))
    })
}

/// Ordinary weights for a tensor of several blocks, the same in each run. Channels differ in their range.
pub(super) fn large(layout: Layout) -> Vec<f32> {
    let channel = channel_of(layout);
    let mut state = 1_u32;
    let weight = |index| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.3 * (channel(index) % 7) as f32
    };
    (0..layout.len()).map(weight).collect()
}

/// Sums that were measured while weights were stored, against those of what is stored.
pub(super) fn check_measured(found: ErrorSums, values: &[f32], payload: &[u8], stored: Stored<'_>) {
    let mut decoded = vec![0; 4 * values.len()];
    decode(payload, stored, &mut decoded);
    check_sums(found, values, &floats(&decoded));
}

/// Sums against those of the definition.
pub(super) fn check_sums(found: ErrorSums, values: &[f32], decoded: &[f32]) {
    let mut expected = ErrorSums::default();
    for (&value, &decoded) in values.iter().zip(decoded) {
        let (value, decoded) = (f64::from(value), f64::from(decoded));
        expected.squared_error += (value - decoded).powi(2);
        expected.squared += value.powi(2);
        expected.max_error = expected.max_error.max((value - decoded).abs());
    }
    for (found, expected) in [
        (found.squared_error, expected.squared_error),
        (found.squared, expected.squared),
        (found.max_error, expected.max_error),
    ] {
        assert!((found - expected).abs() <= 1e-5 * expected, "{found:e}, expected {expected:e}");
    }
}

/// The result of `work` in a pool of that many threads.
pub(super) fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

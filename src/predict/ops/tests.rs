//! What the tests of the families share; recorded cases run through the whole executor, in `tests/layer_cases.rs`.

mod anything;

use rand::SeedableRng;

use super::*;

pub(super) fn context(output_count: usize) -> Context {
    Context { output_count, max_values: 1 << 20, random: Pcg64::seed_from_u64(1), notes: Vec::new() }
}

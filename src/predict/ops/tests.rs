//! The families against recorded cases, and against anything.

mod anything;
mod cases;

use rand::SeedableRng;

use super::*;

pub(super) fn context(output_count: usize) -> Context {
    Context { output_count, max_values: 1 << 20, random: Pcg64::seed_from_u64(1), notes: Vec::new() }
}

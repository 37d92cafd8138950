//! kmeans_lut: the lookup table with the least squared error.
//!
//! One-dimensional k-means has an exact solution: [`crate::kernels::kmeans`] tells how.

use super::{Levels, Needs, QuantizeContext, Quantizer};
use crate::error::QuantizeError;
use crate::format::form::{Nbits, StoredForm};
use crate::kernels::kmeans::{self, Clusters, Strategy};
use crate::program::Recipe;
use crate::program::recipe::{Kind, Table};
use crate::weight::{Codes, Payload, WeightSpec, WeightView};

/// Stores values as codes into the table with the least sum of squared errors, one table for each weight.
///
/// The table is sorted and has 2^bits float32 entries, each the mean of the values nearest to it; if the weight has
/// fewer distinct values, the last entry is repeated. The error is the global optimum for weights of up to 65,536
/// values; for larger ones it was within 0.1 % of it on all values that were tried, adversarial ones among them, which is
/// no proof: [`exact`](Self::exact) is the optimum for all.
///
/// # Errors
///
/// A value that is NaN or infinite.
#[derive(Clone, Copy, Debug)]
pub struct KmeansLut {
    nbits: Nbits,
    strategy: Strategy,
}

impl KmeansLut {
    /// Codes of `nbits` bits.
    pub fn new(nbits: Nbits) -> Self {
        Self { nbits, strategy: Strategy::Auto }
    }

    /// Takes the global optimum for weights of every size. It sorts the values, which takes several times as long and a
    /// few copies of the weight in memory.
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.strategy = Strategy::Exact;
        self
    }

    /// Sorts the values of large weights, as is done for those whose values lie so that no histogram is fine enough: for
    /// benchmarks of the worst case. The error is bounded as without it.
    #[doc(hidden)]
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.strategy = Strategy::Sorted;
        self
    }
}

impl Quantizer for KmeansLut {
    fn needs(&self) -> Needs {
        Needs::Levels(Levels::Table)
    }

    fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
        StoredForm::LookupTable { nbits: self.nbits }
    }

    fn quantize(&self, weight: WeightView<'_>, context: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
        let (values, nbits) = (weight.as_le_bytes(), self.nbits);
        let solution = Clusters::new(values, nbits.levels(), self.strategy)?.solve(nbits.levels());
        let mut packed = context.take(nbits.packed_len(weight.len()));
        let sums = kmeans::assign(values, &solution.centroids, nbits.get(), &mut packed, context.measures());
        context.record_sums(sums);
        let codes = Codes::from_packed(packed, weight.len(), nbits);
        weight.recycle(&mut context.buffers);
        Ok(Payload::LookupTable { codes, table: solution.table(nbits.get()) })
    }

    fn recipe(&self) -> Option<Recipe> {
        let exact = self.strategy == Strategy::Exact;
        Some(Recipe(Kind::Table { nbits: self.nbits.get(), table: Table::Kmeans { exact } }))
    }
}

//! What no recorded case and no documentation decides, and what is computed there.
//!
//! A layer that meets one of these remembers it in [`Context::notes`](super::Context::notes).

pub(crate) const ROUND: &str = "round: halves are rounded to the even number";
pub(crate) const MOD: &str = "modBroadcastable: the remainder has the sign of the divisor, as in Python";
pub(crate) const COSINE: &str = "dot: the cosine similarity of a vector of zeros is NaN";
pub(crate) const ARGMAX: &str = "reduce: ARGMAX of equal values is the first of them";
pub(crate) const SOFTMAX: &str = "softmax: a blob of fewer than three axes is normalized along its last";
pub(crate) const MVN: &str = "mvn: epsilon is added to the variance, under the root";
pub(crate) const LRN: &str = "lrn: of an even localSize, one channel more is counted before than after";
pub(crate) const FRACTION: &str = "indices that are not whole are truncated towards zero";
pub(crate) const SQUEEZE: &str =
    "sliceStatic, sliceDynamic: a squeezed axis takes beginIds, even if its beginMask is set";
pub(crate) const ZERO: &str = "reshapeStatic, reshapeDynamic: a dimension of 0 is copied from the input";
pub(crate) const CROP_RESIZE: &str =
    "cropResize: boxes given by centre and size, and UPSAMPLE_MODE and ROI_ALIGN_MODE inside a box";
pub(crate) const NEAREST: &str =
    "upsample: with a factor that is not whole, the nearest pixel of output i is floor(i / factor)";
pub(crate) const BATCH: &str = "reshape, permute: every entry of the batch is treated alone";
pub(crate) const RANKS: &str = "concatND: leading axes of length one that one input has too many are left out";
pub(crate) const SUPPRESSION: &str =
    "NonMaximumSuppression: a score equal to the threshold drops a box, an overlap equal to the threshold does not";
pub(crate) const RANDOM: &str = "random layers: values come from a generator of our own, only shapes are Core ML's";

/// All of them.
pub(crate) const ALL: [&str; 16] = [
    ROUND,
    MOD,
    COSINE,
    ARGMAX,
    SOFTMAX,
    MVN,
    LRN,
    FRACTION,
    SQUEEZE,
    ZERO,
    CROP_RESIZE,
    NEAREST,
    BATCH,
    RANKS,
    SUPPRESSION,
    RANDOM,
];

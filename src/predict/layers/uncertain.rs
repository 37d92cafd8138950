//! What no recorded case and no documentation decides about these layers, and what is computed there.

pub(crate) const DECONVOLUTION: &str = "convolution: a deconvolution with same padding or an outputShape of its own crops \
     half at the start, rounded down, and is zero where nothing reaches";
pub(crate) const POOLING: &str =
    "pooling: an average with includeLastPixel that counts padding divides overhanging windows by the whole kernel";
pub(crate) const INT8: &str = "innerProduct, batchedMatmul: int8DynamicQuantize rounds the input to 127 steps of its \
     largest magnitude, halves away from zero";
pub(crate) const FORGET_BIAS: &str =
    "uniDirectionalLSTM, biDirectionalLSTM: forgetBias without bias vectors adds 1 to the forget gate";

/// All of them.
pub(crate) const ALL: [&str; 4] = [DECONVOLUTION, POOLING, INT8, FORGET_BIAS];

//! How the values of one weight become fewer bits: the [`Quantizer`] trait and one file for each mode.
//!
//! A quantizer sees values, blocks and a place, never a layer, and returns plain data; writing that into a model is
//! done in one place, elsewhere.

mod custom_lut;
mod dequantize;
mod float16;
mod int8;
mod kmeans_lut;
mod linear;
mod linear_lut;
mod prune;
mod statistics;

use std::fmt::Debug;
use std::sync::Arc;

pub use custom_lut::CustomLut;
pub use dequantize::Dequantize;
pub use float16::Float16;
pub use int8::Int8;
pub use kmeans_lut::KmeansLut;
pub use linear::{Linear, LinearRange, LinearSymmetric, SymmetricBits};
pub use linear_lut::LinearLut;
pub use prune::Prune;
pub use statistics::{Levels, Needs, Statistics};

use crate::error::{QuantizeError, WeightError};
use crate::format::form::StoredForm;
use crate::kernels::errors::ErrorSums;
use crate::program::Recipe;
use crate::weight::distortion::{self, Distortion};
use crate::weight::{Buffers, Payload, WeightSpec, WeightView};

/// Stores the values of a weight in another form.
///
/// Implement it for scales or tables of your own, trained ones for example, and pass it to
/// [`QuantConfig::custom`](crate::QuantConfig::custom). The same weight must always give the same result. What is
/// returned is checked completely before anything is written.
///
/// ```
/// use coreml_quant::{
///     Codes, Nbits, Payload, QuantizeContext, QuantizeError, Quantizer, StoredForm, WeightSpec, WeightView,
/// };
///
/// /// One bit a weight: its sign, with the mean magnitude as scale.
/// #[derive(Debug)]
/// struct Sign;
///
/// impl Quantizer for Sign {
///     fn stored_form(&self, _: &WeightSpec<'_>) -> StoredForm {
///         StoredForm::Linear { nbits: Nbits::ONE, scales: 1, biases: 1 }
///     }
///
///     fn quantize(&self, weight: WeightView<'_>, _: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
///         let mean = weight.iter().map(f32::abs).sum::<f32>() / weight.len() as f32;
///         let signs: Vec<u8> = weight.iter().map(|value| u8::from(value >= 0.0)).collect();
///         Ok(Payload::Linear {
///             codes: Codes::pack(&signs, Nbits::ONE)?,
///             scale: vec![2.0 * mean],
///             bias: vec![-mean],
///         })
///     }
/// }
/// ```
pub trait Quantizer: Debug + Send + Sync {
    /// The form in which a weight will be stored: with one scale, or one for each of [`WeightSpec::blocks`].
    ///
    /// The form decides, before anything is computed, whether the weight would shrink at all and whether Core ML
    /// allows it in its place.
    fn stored_form(&self, weight: &WeightSpec<'_>) -> StoredForm;

    /// Stores the values in the form that [`stored_form`](Self::stored_form) announced.
    ///
    /// # Errors
    ///
    /// Whatever keeps the values from being stored. The caller adds the place to it.
    fn quantize(&self, weight: WeightView<'_>, context: &mut QuantizeContext) -> Result<Payload, QuantizeError>;

    /// What the quantizer does in ML Programs, whose forms are others. Without, as for quantizers of the caller's, its
    /// lookup tables are taken: [`quantize`](Self::quantize) gets the values of one table at a time.
    #[doc(hidden)]
    fn recipe(&self) -> Option<Recipe> {
        None
    }

    /// What the quantizer wants to know of the inputs that a weight meets, where the job has samples. Default:
    /// [`Needs::Nothing`], and the weight is left to [`quantize`](Self::quantize).
    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    /// As [`quantize`](Self::quantize), where the quantizer needs [`Needs::Statistics`] and there are some. Of the two
    /// results, the one with the lower [`Statistics::error`] is stored. Default: as without statistics.
    ///
    /// # Errors
    ///
    /// As [`quantize`](Self::quantize).
    fn quantize_with(
        &self,
        weight: WeightView<'_>,
        statistics: &Statistics<'_>,
        context: &mut QuantizeContext,
    ) -> Result<Payload, QuantizeError> {
        let _ = statistics;
        self.quantize(weight, context)
    }
}

/// Passes on to what is pointed at.
macro_rules! forward {
    ($($pointer:ty),+) => {
        $(impl<Q: Quantizer + ?Sized> Quantizer for $pointer {
            fn stored_form(&self, weight: &WeightSpec<'_>) -> StoredForm {
                (**self).stored_form(weight)
            }

            fn quantize(&self, weight: WeightView<'_>, context: &mut QuantizeContext) -> Result<Payload, QuantizeError> {
                (**self).quantize(weight, context)
            }

            fn recipe(&self) -> Option<Recipe> {
                (**self).recipe()
            }

            fn needs(&self) -> Needs {
                (**self).needs()
            }

            fn quantize_with(
                &self,
                weight: WeightView<'_>,
                statistics: &Statistics<'_>,
                context: &mut QuantizeContext,
            ) -> Result<Payload, QuantizeError> {
                (**self).quantize_with(weight, statistics, context)
            }
        })+
    };
}

forward!(&Q, Box<Q>, Arc<Q>);

/// What the job offers a quantizer: memory to use again, and a place for what it measures on the way.
#[derive(Debug, Default)]
pub struct QuantizeContext {
    pub(crate) buffers: Buffers,
    measure: bool,
    distortion: Option<Distortion>,
}

impl QuantizeContext {
    /// A context without memory, in which nothing needs to be measured.
    pub fn new() -> Self {
        Self::default()
    }

    /// A context with memory of earlier weights.
    pub(crate) fn with_buffers(buffers: Buffers) -> Self {
        Self { buffers, ..Self::default() }
    }

    /// Whether the job wants to know how far the stored values are from the weight's. Measuring in the pass that
    /// stores them is cheaper than in a second one, and optional: without [`record`](Self::record) the caller does it.
    pub fn measures(&self) -> bool {
        self.measure
    }

    /// Tells how far the stored values are from the weight's.
    pub fn record(&mut self, distortion: Distortion) {
        self.distortion = Some(distortion);
    }

    /// A buffer of `len` bytes with arbitrary content: faster than allocating.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        self.buffers.take(len)
    }

    /// Takes memory back.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        self.buffers.give_back(buffer);
    }

    /// Takes the memory of a payload back that is no longer needed.
    pub fn recycle(&mut self, payload: Payload) {
        payload.recycle(&mut self.buffers);
    }

    /// Records the sums that a kernel gathered, if the job measures.
    fn record_sums(&mut self, sums: ErrorSums) {
        if self.measure {
            self.record(Distortion::of(sums));
        }
    }
}

/// A weight in its new form, checked completely, and how far that is from the values it had if that is to be measured.
///
/// `again` gives the view a second time, for a quantizer that measures nothing.
///
/// # Errors
///
/// What the quantizer says; [`WeightError::OtherForm`] and what else is wrong with what it returned.
pub(crate) fn run<'w>(
    quantizer: &dyn Quantizer,
    weight: impl Fn(&mut Buffers) -> Result<WeightView<'w>, WeightError>,
    announced: StoredForm,
    measure: bool,
    context: &mut QuantizeContext,
) -> Result<(Payload, Option<Distortion>), WeightError> {
    let view = weight(&mut context.buffers)?;
    let (units, blocks) = (view.len(), view.blocks().count());
    (context.measure, context.distortion) = (measure, None);
    let payload = quantizer.quantize(view, context)?;
    payload.check(units, blocks)?;
    let returned = payload.form();
    if returned != announced {
        return Err(WeightError::OtherForm { announced, returned });
    }
    if !measure || context.distortion.is_some() {
        return Ok((payload, context.distortion.take()));
    }
    // A decoded weight went into the quantizer; decoding again is cheaper than a copy of every weight.
    let view = weight(&mut context.buffers)?;
    let measured = distortion::distortion(&view, &payload);
    view.recycle(&mut context.buffers);
    Ok((payload, Some(measured)))
}

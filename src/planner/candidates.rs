//! What each weight could be, and how far that would be from its values.
//!
//! Every method is carried out and measured, but for the best tables: the values are sorted once, and from many clusters
//! to few the solutions help to find each other. Their error is an estimate then, to parts in a thousand for large
//! weights and to rounding for small ones; [`Candidate::measure`] makes it exact.

use crate::error::{Error, QuantizeError, Refused, WeightError};
use crate::format::form::StoredForm;
use crate::kernels::kmeans::{Clusters, Strategy};
use crate::quantize::method::Method;
use crate::quantize::sites::Site;
use crate::quantizer::{self, QuantizeContext};
use crate::weight::distortion;
use crate::weight::{Buffers, WeightView};

/// A form that a weight may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub method: Method,
    pub form: StoredForm,
    pub relative_error: f64,
    /// Whether the error is exactly what storing the weight like this will measure.
    pub measured: bool,
}

impl Candidate {
    /// What is always there: the weight as it is.
    pub(super) fn keep(site: &Site<'_>) -> Self {
        Self { method: Method::Keep, form: site.before, relative_error: 0.0, measured: true }
    }

    /// Measures the error, if it is an estimate.
    pub(super) fn measure(&mut self, site: &Site<'_>) {
        if !self.measured {
            let context = &mut QuantizeContext::new();
            let measured = measured(site, self.method, self.form, context);
            self.relative_error = measured.ok().flatten().unwrap_or(self.relative_error);
            self.measured = true;
        }
    }
}

/// What a weight can be, by the methods that are allowed; keeping it comes first. What cannot hold the values is left
/// out.
///
/// # Errors
///
/// A value that is NaN or infinite: no method could store it.
pub(super) fn candidates(site: &Site<'_>, allowed: &[(Method, StoredForm)]) -> Result<Vec<Candidate>, Unusable> {
    let mut found = vec![Candidate::keep(site)];
    let mut context = QuantizeContext::new();
    let mut tables = None;
    // From many bits to few: the solutions for more clusters help to find those for fewer.
    for &(method, form) in allowed.iter().rev() {
        let unusable = |cause| Unusable::new(site, form, cause);
        let (relative_error, measured) = match method {
            Method::KmeansLut { nbits } => {
                if tables.is_none() {
                    let weight = site.view(&mut context.buffers).map_err(unusable)?;
                    tables = Some(Tables::new(&weight).map_err(|cause| unusable(cause.into()))?);
                    weight.recycle(&mut context.buffers);
                }
                (tables.as_mut().map(|tables| tables.relative_error(nbits.levels())), false)
            }
            _ => (measured(site, method, form, &mut context).map_err(unusable)?, true),
        };
        if let Some(relative_error) = relative_error.filter(|error| error.is_finite()) {
            found.push(Candidate { method, form, relative_error, measured });
        }
    }
    Ok(found)
}

/// The error of a method, from doing it; `None` if its form cannot hold the values.
fn measured(
    site: &Site<'_>,
    method: Method,
    form: StoredForm,
    context: &mut QuantizeContext,
) -> Result<Option<f64>, WeightError> {
    let Some(quantizer) = method.quantizer() else { return Ok(Some(0.0)) };
    let view = |buffers: &mut Buffers| site.view(buffers);
    match quantizer::run(&quantizer, view, form, true, context) {
        Ok((payload, measured)) => {
            payload.recycle(&mut context.buffers);
            Ok(measured.map(|distortion| distortion.relative_error()))
        }
        Err(WeightError::Quantize(QuantizeError::Float16Range { .. } | QuantizeError::ScaleRange { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A weight that no method could store.
#[derive(Debug)]
pub(super) enum Unusable {
    /// Some of its values are in the way.
    Values(Box<Refused>),
    /// Something else is wrong.
    Other(Error),
}

impl Unusable {
    fn new(site: &Site<'_>, form: StoredForm, cause: WeightError) -> Self {
        let place = site.place.clone();
        match cause {
            WeightError::Quantize(cause @ QuantizeError::NonFinite { .. }) => {
                Self::Values(Box::new(Refused { place, form, cause }))
            }
            cause => Self::Other(Error::Weight { place: Box::new(place), cause }),
        }
    }

    /// One error for all such weights, in the order of the model; another one comes first.
    pub(super) fn all(unusable: Vec<Self>) -> Error {
        let mut refused = Vec::new();
        for one in unusable {
            match one {
                Self::Values(one) => refused.push(*one),
                Self::Other(error) => return error,
            }
        }
        Error::Unrepresentable { refused }
    }
}

/// The errors of the best tables of a weight: it is sorted once.
struct Tables {
    clusters: Clusters,
    squared: f64,
}

impl Tables {
    fn new(weight: &WeightView<'_>) -> Result<Self, QuantizeError> {
        let values = weight.as_le_bytes();
        let clusters = Clusters::new(values, 256, Strategy::Auto)?;
        Ok(Self { clusters, squared: distortion::squared(values) })
    }

    fn relative_error(&mut self, levels: usize) -> f64 {
        distortion::relative(self.clusters.solve(levels).sse, self.squared)
    }
}

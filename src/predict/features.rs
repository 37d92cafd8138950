//! What goes into a model and comes out of it, by name.

use std::collections::BTreeMap;

use half::f16;
use ndarray::{Array, ArrayViewD, Dimension};

use super::error::PredictError;
use super::tensor::Tensor;

/// Inputs or outputs of a model, by name.
///
/// ```
/// use coreml_quant::predict::Features;
/// use ndarray::Array;
///
/// let features = Features::new().with("image", Array::from_elem((1, 8, 8), 0.5_f32)).with("name", "digit");
/// assert_eq!(features.array("image").unwrap().shape(), [1, 8, 8]);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features(BTreeMap<String, Value>);

impl Features {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more; it replaces one of the same name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.insert(name, value);
        self
    }

    /// Adds one, or replaces one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(name.into(), value.into());
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The array of a name; `None` if there is something else, or nothing.
    pub fn array(&self, name: &str) -> Option<ArrayViewD<'_, f32>> {
        match self.get(name)? {
            Value::Array(array) => Some(array.view()),
            _ => None,
        }
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Adds all of others.
    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }
}

impl FromIterator<(String, Value)> for Features {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// One input or output.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A multi-array of any element type, as float32.
    Array(Tensor),
    /// An image.
    Image(Image),
    /// A string.
    String(String),
    /// A whole number.
    Int64(i64),
    /// A number.
    Double(f64),
    /// Numbers by string, as of a classifier with string labels.
    StringDictionary(BTreeMap<String, f64>),
    /// Numbers by whole number.
    Int64Dictionary(BTreeMap<i64, f64>),
}

impl Value {
    /// What it is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Array(_) => "an array",
            Self::Image(_) => "an image",
            Self::String(_) => "a string",
            Self::Int64(_) => "a whole number",
            Self::Double(_) => "a number",
            Self::StringDictionary(_) => "a dictionary of strings",
            Self::Int64Dictionary(_) => "a dictionary of whole numbers",
        }
    }
}

macro_rules! from_arrays {
    ($($element:ty => $convert:expr),+) => {$(
        impl<D: Dimension> From<Array<$element, D>> for Value {
            fn from(array: Array<$element, D>) -> Self {
                Self::Array(array.into_dyn().mapv($convert).into_shared())
            }
        }
    )+};
}

from_arrays!(f64 => |value| value as f32, i32 => |value| value as f32, f16 => f16::to_f32);

impl<D: Dimension> From<Array<f32, D>> for Value {
    fn from(array: Array<f32, D>) -> Self {
        Self::Array(array.into_dyn().into_shared())
    }
}

macro_rules! from_values {
    ($($variant:ident($from:ty)),+) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value)
            }
        }
    )+};
}

from_values!(
    Array(Tensor),
    Image(Image),
    String(String),
    Int64(i64),
    Double(f64),
    StringDictionary(BTreeMap<String, f64>),
    Int64Dictionary(BTreeMap<i64, f64>)
);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

/// The order of an image's colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColorOrder {
    /// One value a pixel.
    Gray,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

impl ColorOrder {
    /// Values of a pixel.
    pub fn channels(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb | Self::Bgr => 3,
        }
    }
}

/// An image of 8-bit pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    order: ColorOrder,
    pixels: Vec<u8>,
}

impl Image {
    /// An image from its pixels, row by row, the colours of a pixel side by side.
    ///
    /// # Errors
    ///
    /// [`PredictError::ImageBytes`] if their number does not fit the size.
    pub fn from_interleaved(
        width: usize,
        height: usize,
        order: ColorOrder,
        pixels: Vec<u8>,
    ) -> Result<Self, PredictError> {
        let expected = width.saturating_mul(height).saturating_mul(order.channels());
        if pixels.len() != expected {
            return Err(PredictError::ImageBytes { width, height, found: pixels.len(), expected });
        }
        Ok(Self { width, height, order, pixels })
    }

    /// An image from its planes, one a colour, after each other.
    ///
    /// # Errors
    ///
    /// [`PredictError::ImageBytes`] if their number does not fit the size.
    pub fn from_planes(width: usize, height: usize, order: ColorOrder, planes: &[u8]) -> Result<Self, PredictError> {
        let (channels, plane) = (order.channels(), width.saturating_mul(height));
        let expected = plane.saturating_mul(channels);
        if planes.len() != expected {
            return Err(PredictError::ImageBytes { width, height, found: planes.len(), expected });
        }
        let pixels = (0..expected).map(|index| planes[index % channels * plane + index / channels]).collect();
        Ok(Self { width, height, order, pixels })
    }

    /// Reads an image file (JPEG or PNG); it becomes an RGB image.
    ///
    /// # Errors
    ///
    /// [`PredictError::ImageFile`] if it cannot be read as an image.
    #[cfg(feature = "images")]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self, PredictError> {
        let path = path.as_ref();
        let image =
            image::open(path).map_err(|cause| PredictError::ImageFile { path: path.to_owned(), cause })?.into_rgb8();
        let (width, height) = (image.width() as usize, image.height() as usize);
        Self::from_interleaved(width, height, ColorOrder::Rgb, image.into_raw())
    }

    /// The image in another size, bilinearly.
    #[cfg(feature = "images")]
    #[must_use]
    pub fn resized(&self, width: usize, height: usize) -> Self {
        use image::imageops::{FilterType, resize};
        let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let (from, to) = ((size(self.width), size(self.height)), (size(width), size(height)));
        let pixels = if self.order == ColorOrder::Gray {
            image::GrayImage::from_raw(from.0, from.1, self.pixels.clone())
                .map(|image| resize(&image, to.0, to.1, FilterType::Triangle).into_raw())
        } else {
            image::RgbImage::from_raw(from.0, from.1, self.pixels.clone())
                .map(|image| resize(&image, to.0, to.1, FilterType::Triangle).into_raw())
        };
        Self { width, height, order: self.order, pixels: pixels.unwrap_or_default() }
    }

    /// The largest part in the middle that has the ratio of a width to a height; both at least 1.
    #[must_use]
    pub fn cropped_to_ratio(&self, width: usize, height: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let new_width = self.width.min((self.height * width).div_ceil(height));
        let new_height = self.height.min((self.width * height).div_ceil(width));
        let (left, top) = ((self.width - new_width) / 2, (self.height - new_height) / 2);
        let channels = self.order.channels();
        let rows = self.pixels.chunks(self.width.max(1) * channels).skip(top).take(new_height);
        let pixels = rows.flat_map(|row| &row[left * channels..][..new_width * channels]).copied().collect();
        Self { width: new_width, height: new_height, order: self.order, pixels }
    }

    /// The image in gray: 0.299 red + 0.587 green + 0.114 blue, rounded.
    #[must_use]
    pub fn to_gray(&self) -> Self {
        let weights = match self.order {
            ColorOrder::Gray => return self.clone(),
            ColorOrder::Rgb => [0.299, 0.587, 0.114],
            ColorOrder::Bgr => [0.114, 0.587, 0.299],
        };
        let gray = |pixel: &[u8; 3]| {
            let sum: f32 = pixel.iter().zip(weights).map(|(&value, weight)| f32::from(value) * weight).sum();
            sum.round() as u8
        };
        let pixels = self.pixels.as_chunks::<3>().0.iter().map(gray).collect();
        Self { order: ColorOrder::Gray, pixels, ..*self }
    }

    /// Its width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Its height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The order of its colours.
    pub fn order(&self) -> ColorOrder {
        self.order
    }

    /// Its pixels, row by row, the colours of a pixel side by side.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Planes in an order, 0 to 255; `None` if it has other colours.
    pub(crate) fn planes(&self, order: ColorOrder) -> Option<Vec<f32>> {
        let channels = order.channels();
        if self.order.channels() != channels {
            return None;
        }
        let swap = self.order != order;
        let plane = |channel: usize| {
            let channel = if swap { channels - 1 - channel } else { channel };
            self.pixels.iter().skip(channel).step_by(channels).map(|&value| f32::from(value))
        };
        Some((0..channels).flat_map(plane).collect())
    }
}

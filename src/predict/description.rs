//! What a model says of its inputs and outputs.

use std::fmt;

use super::features::ColorOrder;
use crate::format::proto::FeatureDescription;
use crate::format::proto::array_feature_type::{ArrayDataType, DefaultOptionalValue, ShapeFlexibility};
use crate::format::proto::dictionary_feature_type::KeyType;
use crate::format::proto::feature_type::Type;
use crate::format::proto::image_feature_type::{ColorSpace, SizeFlexibility};

/// An input or output, as the model describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureInfo {
    /// Its name.
    pub name: String,
    /// Whether it may be missing.
    pub optional: bool,
    /// What it is.
    pub kind: FeatureKind,
}

/// The type of an input or output.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FeatureKind {
    /// A multi-array.
    Array {
        /// The shape; empty if the model does not tell.
        shape: Vec<usize>,
        /// Other shapes it may have.
        sizes: Sizes,
        /// The type of its elements, under its name in the format.
        element: &'static str,
        /// What stands for it when it is missing.
        default: Option<f32>,
    },
    /// An image.
    Image {
        /// Its width in pixels.
        width: usize,
        /// Its height in pixels.
        height: usize,
        /// Other sizes it may have, heights before widths.
        sizes: Sizes,
        /// The order of its colours.
        order: ColorOrder,
    },
    /// A string.
    String,
    /// A whole number.
    Int64,
    /// A number.
    Double,
    /// Numbers by string, or by whole number.
    Dictionary {
        /// Whether the keys are strings.
        strings: bool,
    },
    /// A type that no network has.
    Other,
}

/// Which sizes a shape may have besides its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sizes {
    /// None.
    Fixed,
    /// Any of these shapes.
    OneOf(Vec<Vec<usize>>),
    /// The smallest and the largest size of each axis; no largest means any.
    Between(Vec<(usize, Option<usize>)>),
}

impl Sizes {
    fn allow(&self, own: &[usize], shape: &[usize]) -> bool {
        own == shape
            || match self {
                Self::Fixed => false,
                Self::OneOf(shapes) => shapes.iter().any(|allowed| allowed == shape),
                Self::Between(ranges) => {
                    ranges.len() == shape.len()
                        && ranges
                            .iter()
                            .zip(shape)
                            .all(|(range, size)| range.0 <= *size && range.1.is_none_or(|largest| *size <= largest))
                }
            }
    }
}

fn count(size: i64) -> usize {
    usize::try_from(size).unwrap_or_default()
}

fn range(range: Option<&crate::format::proto::SizeRange>) -> (usize, Option<usize>) {
    range.map_or((0, None), |range| {
        (usize::try_from(range.lower_bound).unwrap_or(usize::MAX), usize::try_from(range.upper_bound).ok())
    })
}

impl FeatureInfo {
    /// What a description says.
    pub fn of(description: &FeatureDescription) -> Self {
        let r#type = description.r#type.as_ref();
        let kind = match r#type.and_then(|r#type| r#type.r#type.as_ref()) {
            Some(Type::MultiArrayType(array)) => {
                let shape = |shape: &[i64]| shape.iter().map(|&size| count(size)).collect();
                FeatureKind::Array {
                    shape: shape(&array.shape),
                    sizes: match &array.shape_flexibility {
                        None => Sizes::Fixed,
                        Some(ShapeFlexibility::EnumeratedShapes(shapes)) => {
                            Sizes::OneOf(shapes.shapes.iter().map(|allowed| shape(&allowed.shape)).collect())
                        }
                        Some(ShapeFlexibility::ShapeRange(ranges)) => {
                            Sizes::Between(ranges.size_ranges.iter().map(|sizes| range(Some(sizes))).collect())
                        }
                    },
                    element: match array.data_type() {
                        ArrayDataType::InvalidArrayDataType => "none",
                        ArrayDataType::Float32 => "float32",
                        ArrayDataType::Double => "double",
                        ArrayDataType::Int32 => "int32",
                        ArrayDataType::Int8 => "int8",
                        ArrayDataType::Float16 => "float16",
                    },
                    default: array.default_optional_value.map(|value| match value {
                        DefaultOptionalValue::IntDefaultValue(value) => value as f32,
                        DefaultOptionalValue::FloatDefaultValue(value) => value,
                        DefaultOptionalValue::DoubleDefaultValue(value) => value as f32,
                    }),
                }
            }
            Some(Type::ImageType(image)) => FeatureKind::Image {
                width: count(image.width),
                height: count(image.height),
                sizes: match &image.size_flexibility {
                    None => Sizes::Fixed,
                    Some(SizeFlexibility::EnumeratedSizes(sizes)) => Sizes::OneOf(
                        sizes
                            .sizes
                            .iter()
                            .map(|size| vec![count(size.height as i64), count(size.width as i64)])
                            .collect(),
                    ),
                    Some(SizeFlexibility::ImageSizeRange(ranges)) => {
                        Sizes::Between(vec![range(ranges.height_range.as_ref()), range(ranges.width_range.as_ref())])
                    }
                },
                order: match image.color_space() {
                    ColorSpace::Grayscale | ColorSpace::GrayscaleFloat16 => ColorOrder::Gray,
                    ColorSpace::Bgr => ColorOrder::Bgr,
                    ColorSpace::Rgb | ColorSpace::InvalidColorSpace => ColorOrder::Rgb,
                },
            },
            Some(Type::StringType(_)) => FeatureKind::String,
            Some(Type::Int64Type(_)) => FeatureKind::Int64,
            Some(Type::DoubleType(_)) => FeatureKind::Double,
            Some(Type::DictionaryType(dictionary)) => {
                FeatureKind::Dictionary { strings: !matches!(dictionary.key_type, Some(KeyType::Int64KeyType(_))) }
            }
            Some(Type::SequenceType(_) | Type::StateType(_)) | None => FeatureKind::Other,
        };
        Self { name: description.name.clone(), optional: r#type.is_some_and(|r#type| r#type.is_optional), kind }
    }

    /// Whether an array of this shape is what the description says.
    pub(crate) fn allows(&self, found: &[usize]) -> bool {
        match &self.kind {
            FeatureKind::Array { shape, sizes, .. } => shape.is_empty() || sizes.allow(shape, found),
            FeatureKind::Image { width, height, sizes, .. } => sizes.allow(&[*height, *width], found),
            _ => true,
        }
    }
}

impl fmt::Display for FeatureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = match self {
            Self::Array { shape, sizes, element, .. } => {
                write!(f, "an array of {element} and the shape {shape:?}")?;
                sizes
            }
            Self::Image { width, height, sizes, order } => {
                write!(f, "an image ({order:?}) of {width} x {height}")?;
                sizes
            }
            Self::String => return f.write_str("a string"),
            Self::Int64 => return f.write_str("a whole number"),
            Self::Double => return f.write_str("a number"),
            Self::Dictionary { strings: true } => return f.write_str("a dictionary of strings"),
            Self::Dictionary { strings: false } => return f.write_str("a dictionary of whole numbers"),
            Self::Other => return f.write_str("something that cannot be given"),
        };
        match sizes {
            Sizes::Fixed => Ok(()),
            Sizes::OneOf(shapes) => write!(f, ", or one of {shapes:?}"),
            Sizes::Between(ranges) => {
                f.write_str(", or axes of")?;
                for (index, (smallest, largest)) in ranges.iter().enumerate() {
                    f.write_str(if index == 0 { " " } else { " x " })?;
                    match largest {
                        Some(largest) => write!(f, "{smallest} to {largest}")?,
                        None => write!(f, "{smallest} and more")?,
                    }
                }
                Ok(())
            }
        }
    }
}

//! Equal boxes of a row-major tensor: which of its elements share a scale or a table.
//!
//! A tensor of shape `[s0, s1, ..]` is cut into boxes of shape `[b0, b1, ..]`, each `b` a divisor of its `s`; boxes are
//! numbered row-major. Per tensor the box is the shape, per channel `[1, s1, ..]`, in blocks of 32 `[1, 32]`. Elements of
//! one box lie in runs; this walks them in the order of memory, so that a kernel sees plain slices.

use std::ops::Range;

/// How a tensor is cut into boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boxes {
    /// Elements of the tensor.
    len: usize,
    /// Number of boxes.
    count: usize,
    /// Elements that are walked at a time: a run of one box, or a row of boxes of one element.
    unit: usize,
    /// Whether a unit is a row whose elements are in boxes of their own, one after another.
    lanes: bool,
    /// The digits of a unit's number, outermost first.
    digits: Vec<Digit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digit {
    /// How many values it has.
    extent: usize,
    /// How many of them share a box.
    block: usize,
    /// What a step to the next box adds to the box's number.
    stride: usize,
}

/// Elements that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The box of the first.
    pub(crate) first: usize,
    /// Which elements.
    pub(crate) range: Range<usize>,
    /// Whether each further element is in the next box, or all are in the same.
    pub(crate) lanes: bool,
}

impl Boxes {
    /// Boxes of shape `block` in a tensor of shape `shape`: `None` if a box does not divide its axis, or something has
    /// no elements.
    pub(crate) fn new(shape: &[usize], block: &[usize]) -> Option<Self> {
        let fits = |(&size, &block): (&usize, &usize)| block > 0 && size > 0 && size % block == 0;
        if shape.len() != block.len() || !shape.iter().zip(block).all(fits) {
            return None;
        }
        let len = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))?;
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * (shape[axis] / block[axis]);
        }
        let digit = |axis: usize| Digit { extent: shape[axis], block: block[axis], stride: strides[axis] };
        // Everything behind the last axis that is cut belongs to one box.
        let Some(last) = (0..shape.len()).rev().find(|&axis| block[axis] < shape[axis]) else {
            return Some(Self { len, count: 1, unit: len, lanes: false, digits: Vec::new() });
        };
        let count = shape.iter().zip(block).map(|(size, block)| size / block).product();
        let run = block[last] * shape[last + 1..].iter().product::<usize>();
        let mut digits: Vec<Digit> = (0..last).map(digit).collect();
        if run == 1 {
            return Some(Self { len, count, unit: shape[last], lanes: true, digits });
        }
        digits.push(Digit { extent: shape[last] / block[last], block: 1, stride: 1 });
        Some(Self { len, count, unit: run, lanes: false, digits })
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Number of boxes.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Calls `visit` for the elements in a range, in order.
    pub(crate) fn segments(&self, range: Range<usize>, mut visit: impl FnMut(Segment)) {
        let (mut at, end) = (range.start, range.end.min(self.len));
        if at >= end {
            return;
        }
        // The digits of the unit that the range starts in.
        let mut unit = at / self.unit;
        let mut values = vec![0; self.digits.len()];
        for (value, digit) in values.iter_mut().zip(&self.digits).rev() {
            *value = unit % digit.extent;
            unit /= digit.extent;
        }
        while at < end {
            let number: usize =
                values.iter().zip(&self.digits).map(|(value, digit)| value / digit.block * digit.stride).sum();
            let inside = at % self.unit;
            let next = end.min(at - inside + self.unit);
            let first = if self.lanes { number + inside } else { number };
            visit(Segment { first, range: at..next, lanes: self.lanes });
            at = next;
            for (value, digit) in values.iter_mut().zip(&self.digits).rev() {
                *value += 1;
                if *value < digit.extent {
                    break;
                }
                *value = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The box of an element, from the definition.
    fn number(mut element: usize, shape: &[usize], block: &[usize]) -> usize {
        let (mut number, mut stride) = (0, 1);
        for (&size, &block) in shape.iter().zip(block).rev() {
            number += element % size / block * stride;
            stride *= size / block;
            element /= size;
        }
        number
    }

    #[test]
    fn boxes_must_divide() {
        assert!(Boxes::new(&[4, 6], &[1, 4]).is_none());
        assert!(Boxes::new(&[4, 6], &[1]).is_none());
        assert!(Boxes::new(&[4, 0], &[1, 1]).is_none());
        assert!(Boxes::new(&[4, 6], &[0, 6]).is_none());
        assert_eq!(Boxes::new(&[], &[]).map(|boxes| (boxes.len(), boxes.count())), Some((1, 1)));
    }

    proptest! {
        #[test]
        fn segments_cover_a_range_and_name_the_box_of_each_element(
            axes in prop::collection::vec((1_usize..5, 1_usize..5), 0..5),
            from in 0.0..1.0_f64,
            to in 0.0..1.0_f64,
        ) {
            let shape: Vec<usize> = axes.iter().map(|(count, block)| count * block).collect();
            let block: Vec<usize> = axes.iter().map(|&(_, block)| block).collect();
            let boxes = Boxes::new(&shape, &block).unwrap();
            prop_assert_eq!(boxes.count(), axes.iter().map(|(count, _)| count).product::<usize>());
            let at = |share: f64| (share * boxes.len() as f64) as usize;
            let range = at(from.min(to))..at(from.max(to));
            let mut expected = range.start;
            boxes.segments(range.clone(), |segment| {
                assert_eq!(segment.range.start, expected);
                for (index, element) in segment.range.clone().enumerate() {
                    let found = if segment.lanes { segment.first + index } else { segment.first };
                    assert_eq!(found, number(element, &shape, &block));
                }
                expected = segment.range.end;
            });
            prop_assert_eq!(expected, range.end);
        }
    }
}

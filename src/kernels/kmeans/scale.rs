//! The table that finds a value's code: at most one threshold in each small range of values.
//!
//! A [`Scale`] numbers the ranges. For a value at the distance d from the scale's centre, the bits of the float d + c
//! grow evenly up to about c and logarithmically beyond; leaving out the lower bits leaves the range's number. With a
//! large c that is a uniform scale, with a small one it reaches far out with the same relative width everywhere. All
//! that exactness needs of it is that a greater value never has a lower number: subtracting, adding and cutting off all
//! keep the order, rounding included. Then the thresholds of lower ranges are below a value, those of higher ranges
//! above it, and one comparison with the threshold of its own range gives the code.

use multiversion::multiversion;

/// Most ranges to each side: a table of half a megabyte.
const MAX_SIDE: u32 = 1 << 15;
/// Fewer ranges to each side are not worth looking for.
const SMALL_SIDE: u32 = 1 << 10;
/// Powers of two tried for c.
const LINEAR_PARTS: i32 = 24;
/// Values looked up at a time. Multiple of 8.
const GROUP: usize = 256;

/// Numbers small ranges of values.
#[derive(Clone, Copy, Debug)]
struct Scale {
    centre: f32,
    /// c, where the scale turns from linear to logarithmic.
    linear: f32,
    /// Bits left out.
    shift: u32,
    /// Ranges on each side of the centre; the last one of each takes all values beyond.
    side: u32,
}

impl Scale {
    /// The bits of d + c, counted from c.
    #[inline(always)]
    fn steps(self, value: f32) -> u32 {
        ((value - self.centre).abs() + self.linear).to_bits() - self.linear.to_bits()
    }

    /// The number of the value's range, below 2 `side`.
    #[inline(always)]
    fn range(self, value: f32) -> u32 {
        let steps = self.steps(value) >> self.shift;
        let steps = if steps < self.side { steps } else { self.side - 1 };
        // Downwards below the centre: side - 1 - steps, upwards otherwise: side + steps.
        if value < self.centre { self.side - 1 - steps } else { self.side + steps }
    }

    /// The smallest scale found that puts each of the thresholds, ascending, into a range of its own.
    fn new(thresholds: &[f32]) -> Option<Self> {
        let (&first, &last) = (thresholds.first()?, thresholds.last()?);
        let mut best: Option<Self> = None;
        let centres = [thresholds[thresholds.len() / 2], first];
        for centre in centres {
            let reach = (last - centre).max(centre - first);
            let mut linear = 2.0 * reach;
            for _ in 0..LINEAR_PARTS {
                linear /= 2.0;
                if !(linear.is_normal() && (reach + linear).is_finite()) {
                    continue;
                }
                let mut scale = Self { centre, linear, shift: 31, side: 0 };
                // Neighbours on one side are apart when no bit up to the highest in which they differ is left out.
                for pair in thresholds.windows(2) {
                    if (pair[0] < centre) == (pair[1] < centre) {
                        let differing = scale.steps(pair[0]) ^ scale.steps(pair[1]);
                        scale.shift = scale.shift.min(differing.checked_ilog2().unwrap_or(0));
                        if differing == 0 {
                            scale.side = u32::MAX;
                        }
                    }
                }
                let farthest = scale.steps(first).max(scale.steps(last)) >> scale.shift;
                scale.side = scale.side.max(farthest + 2);
                if best.is_none_or(|best| scale.side < best.side) {
                    best = Some(scale);
                }
                if scale.side <= SMALL_SIDE {
                    return best;
                }
            }
        }
        best.filter(|best| best.side <= MAX_SIDE)
    }
}

/// For each range of a scale the only threshold in it, and the code of values up to that.
#[derive(Debug)]
pub(super) struct Table {
    scale: Scale,
    /// The code above the threshold's bits. As long as one of the `SIZES`.
    entries: Vec<u64>,
}

/// Lengths of a table: powers of two, so that a mask keeps an index inside.
const SIZES: [usize; 3] = [1 << 10, 1 << 13, 2 * MAX_SIDE as usize];

impl Table {
    /// A table for the thresholds, ascending and finite, if there is one that is small enough.
    pub(super) fn new(thresholds: &[f32]) -> Option<Self> {
        let scale = Scale::new(thresholds)?;
        let mut entries = Vec::new();
        let mut rest = thresholds.iter().peekable();
        let mut code = 0_u64;
        for range in 0..2 * scale.side {
            let inside = rest.next_if(|&&threshold| scale.range(threshold) == range);
            entries.push(code << 32 | u64::from(inside.unwrap_or(&f32::INFINITY).to_bits()));
            code += u64::from(inside.is_some());
        }
        let size = SIZES.into_iter().find(|&size| entries.len() <= size)?;
        entries.resize(size, 0);
        // All thresholds must have found their place.
        rest.next().is_none().then_some(Self { scale, entries })
    }

    /// Writes one code a value.
    pub(super) fn look_up(&self, values: &[[u8; 4]], codes: &mut [u8]) {
        if let Ok(entries) = self.entries.as_slice().try_into() {
            look_up::<{ SIZES[0] }>(self.scale, entries, values, codes);
        } else if let Ok(entries) = self.entries.as_slice().try_into() {
            look_up::<{ SIZES[1] }>(self.scale, entries, values, codes);
        } else if let Ok(entries) = self.entries.as_slice().try_into() {
            look_up::<{ SIZES[2] }>(self.scale, entries, values, codes);
        }
    }
}

/// In three rounds, so that the first and the last vectorize.
fn look_up<const N: usize>(scale: Scale, entries: &[u64; N], values: &[[u8; 4]], codes: &mut [u8]) {
    let mut ranges = [0; GROUP];
    let mut found = [0; GROUP];
    let (groups, rest) = values.as_chunks::<GROUP>();
    let (code_groups, rest_codes) = codes.as_chunks_mut::<GROUP>();
    for (values, codes) in groups.iter().zip(code_groups) {
        number(scale, values, &mut ranges);
        for (found, &range) in found.iter_mut().zip(&ranges) {
            *found = entries[range as usize & (N - 1)];
        }
        compare(values, &found, codes);
    }
    for (&value, code) in rest.iter().zip(rest_codes) {
        let value = f32::from_le_bytes(value);
        let entry = entries[scale.range(value) as usize & (N - 1)];
        *code = (entry >> 32) as u8 + u8::from(value > f32::from_bits(entry as u32));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn number(scale: Scale, values: &[[u8; 4]; GROUP], ranges: &mut [u32; GROUP]) {
    for (range, &value) in ranges.iter_mut().zip(values) {
        *range = scale.range(f32::from_le_bytes(value));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512dq", "x86_64+avx2"))]
fn compare(values: &[[u8; 4]; GROUP], found: &[u64; GROUP], codes: &mut [u8; GROUP]) {
    for ((code, &value), &entry) in codes.iter_mut().zip(values).zip(found) {
        let above = f32::from_le_bytes(value) > f32::from_bits(entry as u32);
        *code = ((entry >> 32) as u32 + u32::from(above)) as u8;
    }
}

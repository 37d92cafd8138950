//! Distinct values with their counts: by radix sort, or by hashing where they are few.
//!
//! A float32's bits, read as an integer with the sign flipped (all bits flipped for negative numbers), order as the
//! numbers do (Herf, "Radix tricks", 2001). Three passes over digits of 11, 11 and 10 bits sort them; one thread doing
//! so beats a parallel comparison sort on two. The digits of all passes are counted in one sweep, and a pass whose
//! digit is the same everywhere is left out.

use super::items::Items;

const DIGIT_BITS: u32 = 11;
const DIGITS: usize = 1 << DIGIT_BITS;

/// An integer that orders as the finite float32 does.
#[inline(always)]
pub(super) fn order_key(bits: u32) -> u32 {
    bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000)
}

/// The inverse of [`order_key`].
#[inline(always)]
fn key_value(key: u32) -> f32 {
    f32::from_bits(key ^ if key >> 31 == 0 { 0xFFFF_FFFF } else { 0x8000_0000 })
}

/// The distinct values, ascending, with their counts. -0 counts as +0. All values must be finite.
pub(super) fn distinct(values: &[[u8; 4]]) -> Items {
    // -0 + 0 = +0, and nothing else changes.
    let mut keys: Vec<u32> = values.iter().map(|&v| order_key((f32::from_le_bytes(v) + 0.0).to_bits())).collect();
    radix_sort(&mut keys);
    let runs = keys.chunk_by(|a, b| a == b);
    let mut items = Items::with_capacity(runs.clone().count());
    for run in runs {
        if let Some(&key) = run.first() {
            items.push_value(key_value(key), run.len() as u64);
        }
    }
    items
}

/// Most values that [`few`] tells apart.
const FEW: usize = 1 << 13;

/// The distinct values as [`distinct`] finds them, if they are at most [`FEW`]: one pass over an open-addressing hash
/// table. Gives up early if they are more, or if they collide as only contrived ones do.
pub(super) fn few(values: &[[u8; 4]]) -> Option<Items> {
    const SLOTS_BITS: u32 = 15;
    const SLOTS: usize = 1 << SLOTS_BITS;
    /// The bits of a NaN: no finite value's.
    const EMPTY: u32 = u32::MAX;
    let mut slots = vec![(EMPTY, 0_u32); SLOTS];
    let mut found = 0;
    let mut collisions = 0;
    for block in values.chunks(1 << 16) {
        for &value in block {
            let bits = (f32::from_le_bytes(value) + 0.0).to_bits();
            // Fibonacci hashing (Knuth, The Art of Computer Programming, vol. 3, 6.4).
            let mut slot = (bits.wrapping_mul(0x9E37_79B1) >> (32 - SLOTS_BITS)) as usize;
            while slots[slot].0 != bits && slots[slot].0 != EMPTY {
                slot = (slot + 1) % SLOTS;
                collisions += 1;
            }
            found += usize::from(slots[slot].0 == EMPTY);
            slots[slot].0 = bits;
            slots[slot].1 = slots[slot].1.checked_add(1)?;
            if found > FEW {
                return None;
            }
        }
        if collisions > 4 * values.len() {
            return None;
        }
    }
    slots.retain(|slot| slot.0 != EMPTY);
    slots.sort_unstable_by_key(|slot| order_key(slot.0));
    let mut items = Items::with_capacity(slots.len());
    for (bits, count) in slots {
        items.push_value(f32::from_bits(bits), u64::from(count));
    }
    Some(items)
}

/// Sorts ascending.
pub(super) fn radix_sort(keys: &mut Vec<u32>) {
    if keys.len() <= 64 {
        keys.sort_unstable();
        return;
    }
    let digit = |key: u32, pass: usize| (key >> (DIGIT_BITS * pass as u32)) as usize & (DIGITS - 1);
    let mut counts = vec![[0_usize; DIGITS]; 3];
    for &key in keys.iter() {
        for (pass, counts) in counts.iter_mut().enumerate() {
            counts[digit(key, pass)] += 1;
        }
    }
    let mut sorted = vec![0; keys.len()];
    for (pass, counts) in counts.iter_mut().enumerate() {
        if keys.first().is_some_and(|&key| counts[digit(key, pass)] == keys.len()) {
            continue;
        }
        let mut next = 0;
        for count in counts.iter_mut() {
            next += std::mem::replace(count, next);
        }
        for &key in keys.iter() {
            let place = &mut counts[digit(key, pass)];
            sorted[*place] = key;
            *place += 1;
        }
        std::mem::swap(keys, &mut sorted);
    }
}

#[cfg(test)]
mod tests {
    use super::{Items, distinct, few, key_value, order_key, radix_sort};
    use proptest::prelude::*;

    fn keys() -> impl Strategy<Value = u32> {
        prop_oneof![any::<u32>(), 5_u32..9, (0_u32..50).prop_map(|key| key << 22)]
    }

    fn counted(items: &Items) -> Vec<(f64, f64)> {
        items.means.iter().copied().zip(items.counts.iter().copied()).collect()
    }

    #[test]
    fn few_values_are_found_as_by_sorting() {
        let values: Vec<[u8; 4]> =
            (0..100_000_u32).map(|i| ((i * 7919 % 5003) as f32 - 2500.0).to_le_bytes()).collect();
        let found = few(&values).unwrap();
        assert_eq!(counted(&found), counted(&distinct(&values)));
        assert_eq!(found.len(), 5003);
        let many: Vec<[u8; 4]> = (0..10_000_u32).map(|i| (i as f32).to_le_bytes()).collect();
        assert!(few(&many).is_none());
    }

    #[test]
    fn colliding_values_are_given_up() {
        // Multiples of the multiplier's inverse hash to neighbouring slots: all to the first one.
        let inverse =
            (0..5).fold(0x9E37_79B1_u32, |x, _| x.wrapping_mul(2_u32.wrapping_sub(x.wrapping_mul(0x9E37_79B1))));
        let colliding = (0..8000_u32).map(|i| i.wrapping_mul(inverse)).filter(|&bits| f32::from_bits(bits).is_finite());
        let values = colliding.map(u32::to_le_bytes).collect::<Vec<_>>().repeat(25);
        assert!(few(&values).is_none());
    }

    proptest! {
        #[test]
        fn keys_order_as_values_do(a in any::<f32>(), b in any::<f32>()) {
            prop_assert_eq!(key_value(order_key(a.to_bits())).to_bits(), a.to_bits());
            if a != b {
                prop_assert_eq!(order_key(a.to_bits()) < order_key(b.to_bits()), a < b);
            }
        }

        #[test]
        fn sorts(keys in prop::collection::vec(keys(), 0..500)) {
            let mut sorted = keys.clone();
            sorted.sort_unstable();
            let mut keys = keys;
            radix_sort(&mut keys);
            prop_assert_eq!(keys, sorted);
        }
    }
}

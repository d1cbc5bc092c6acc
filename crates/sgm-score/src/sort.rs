//! Sorting of keys whose lowest bit is the label: by vectors where the processor has AVX-512, else by digits.

#[cfg(target_arch = "x86_64")]
use crate::vectors;

/// Sorts keys in ascending order; `other` is working memory.
///
/// Keys that differ in the lowest bit alone may stay in any order.
pub(crate) fn sort(keys: &mut Vec<u32>, other: &mut Vec<u32>) {
    #[cfg(target_arch = "x86_64")]
    if vectors::available() {
        return avx512::sort(keys, other);
    }
    by_digits(keys, other);
}

/// The number of bits of one digit. The counts of more digits take longer to accumulate and exceed the first-level cache.
const DIGIT: u32 = 9;
const DIGITS: usize = 1 << DIGIT;

/// A key of a radix sort.
pub(crate) trait Key: Copy + Default + Ord {
    /// The bits from `shift` on.
    fn digit(self, shift: u32) -> usize;
    /// The key without its label.
    fn response(self) -> Self;
    /// The number of bits up to the highest that is set.
    fn width(self) -> u32;
}

macro_rules! key {
    ($($integer:ty),*) => {
        $(impl Key for $integer {
            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "the lowest bits are asked for")]
            fn digit(self, shift: u32) -> usize {
                (self >> shift) as usize & (DIGITS - 1)
            }
            #[inline(always)]
            fn response(self) -> Self {
                self >> 1
            }
            fn width(self) -> u32 {
                Self::BITS - self.leading_zeros()
            }
        })*
    };
}
key!(u32, u64);

/// Sorts by the two most significant digits, which leave few moves to an insertion sort, or else by all digits.
pub(crate) fn by_digits<K: Key>(keys: &mut Vec<K>, other: &mut Vec<K>) {
    let width = keys.iter().max().map_or(0, |most| most.width());
    other.resize(keys.len(), K::default());
    radix(keys, other, width.saturating_sub(2 * DIGIT).max(1)..width);
    if !insert(keys) {
        radix(keys, other, 1..width);
    }
}

/// Sorts by these bits, the least significant digit first.
#[allow(clippy::indexing_slicing, reason = "a digit is below the number of digits; the counts add up to the number of keys")]
fn radix<K: Key>(keys: &mut Vec<K>, other: &mut Vec<K>, bits: std::ops::Range<u32>) {
    for shift in bits.step_by(DIGIT as usize) {
        let mut places = [0u32; DIGITS];
        keys.iter().for_each(|key| places[key.digit(shift)] += 1);
        let mut before = 0;
        for place in &mut places {
            before += std::mem::replace(place, before);
        }
        for key in keys.iter() {
            let place = &mut places[key.digit(shift)];
            other[*place as usize] = *key;
            *place += 1;
        }
        std::mem::swap(keys, other);
    }
}

/// Sorts nearly sorted keys by insertion; returns false when a key moves more than one place on average.
#[allow(clippy::indexing_slicing, reason = "places from 1 up to the length, and the ones before")]
fn insert<K: Key>(keys: &mut [K]) -> bool {
    let mut moves = keys.len();
    for next in 1..keys.len() {
        let key = keys[next];
        let mut place = next;
        while place > 0 && keys[place - 1].response() > key.response() {
            keys[place] = keys[place - 1];
            place -= 1;
        }
        if place < next {
            keys[place] = key;
            match moves.checked_sub(next - place) {
                Some(left) => moves = left,
                None => return false,
            }
        }
    }
    true
}

/// A quicksort whose partitions compress vectors of keys; short parts are sorted in registers.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
#[allow(clippy::indexing_slicing, reason = "indices of arrays, and of slices that are cut to size")]
mod avx512 {
    use std::arch::x86_64::*;

    use crate::vectors::{LANES, lanes, load, store, transposed};

    /// The largest number of keys that are sorted in registers.
    const SHORT: usize = 8 * LANES;

    pub(super) fn sort(keys: &mut [u32], other: &mut Vec<u32>) {
        // Twice as many partitions as halving takes.
        sort_within(keys, other, 2 * (usize::BITS - keys.len().leading_zeros()));
    }

    /// Sorts in at most `depth` partitions of each part, beyond which the standard library sorts.
    pub(super) fn sort_within(keys: &mut [u32], other: &mut Vec<u32>, depth: u32) {
        // A partition writes whole vectors.
        other.resize(keys.len() + LANES, 0);
        // SAFETY: the caller has found the features.
        unsafe { quicksort(keys, other, depth) }
    }

    /// As [`sort_within`]; `other` has room for a vector more than the keys.
    #[target_feature(enable = "avx512f,popcnt")]
    fn quicksort(mut keys: &mut [u32], other: &mut [u32], mut depth: u32) {
        while keys.len() > SHORT {
            if depth == 0 {
                return keys.sort_unstable();
            }
            depth -= 1;
            let pivot = pivot(keys);
            let middle = partition(keys, other, pivot);
            if middle < keys.len() {
                let (low, high) = keys.split_at_mut(middle);
                quicksort(high, other, depth);
                keys = low;
            } else {
                // The pivot is the largest key: all keys equal to it are in their places once the others are before them.
                let Some(below) = pivot.checked_sub(1) else { return };
                let middle = partition(keys, other, below);
                keys = &mut keys[..middle];
            }
        }
        match keys.len() {
            0..=1 => {}
            2..=64 => in_registers::<4>(keys),
            _ => in_registers::<8>(keys),
        }
    }

    /// The median of three medians of three keys.
    fn pivot(keys: &[u32]) -> u32 {
        let step = keys.len() / 9;
        let median = |[a, b, c]: [u32; 3]| a.min(b).max(a.max(b).min(c));
        median([0, 3, 6].map(|first| median([0, 1, 2].map(|i| keys[(first + i) * step]))))
    }

    /// Moves the keys up to the pivot before those above it; returns the number of the former. `other` has room for a vector more.
    #[target_feature(enable = "avx512f,popcnt")]
    fn partition(keys: &mut [u32], other: &mut [u32], pivot: u32) -> usize {
        assert!(other.len() >= keys.len() + LANES, "room for all keys and a vector");
        let pivot = _mm512_set1_epi32(pivot.cast_signed());
        let (mut low, mut high) = (0, 0);
        let whole = keys.len() / LANES * LANES;
        let (from, to) = (keys.as_mut_ptr(), other.as_mut_ptr());
        for place in (0..whole).step_by(LANES) {
            // SAFETY: `low <= place` and `high <= place`: whole vectors fit, and no key is overwritten before it is read.
            unsafe {
                let vector = _mm512_loadu_si512(from.add(place).cast());
                let above = _mm512_cmpgt_epu32_mask(vector, pivot);
                _mm512_storeu_si512(from.add(low).cast(), _mm512_maskz_compress_epi32(!above, vector));
                _mm512_storeu_si512(to.add(high).cast(), _mm512_maskz_compress_epi32(above, vector));
                let count = above.count_ones() as usize;
                high += count;
                low += LANES - count;
            }
        }
        // The last vector is not whole, and nothing may be written after the keys.
        let vector = load(keys, whole, 0);
        let left = lanes(keys.len() - whole);
        let above = _mm512_mask_cmpgt_epu32_mask(left, vector, pivot);
        // SAFETY: `high <= whole`, and there is room for a vector more.
        unsafe { _mm512_storeu_si512(other.as_mut_ptr().add(high).cast(), _mm512_maskz_compress_epi32(above, vector)) };
        high += above.count_ones() as usize;
        store(&mut keys[..low + (left & !above).count_ones() as usize], low, _mm512_maskz_compress_epi32(left & !above, vector));
        low += (left & !above).count_ones() as usize;
        keys[low..].copy_from_slice(&other[..high]);
        low
    }

    /// Sorts up to `R` vectors of keys by bitonic merges: first each column of `R` rows, then neighbouring columns.
    #[target_feature(enable = "avx512f")]
    fn in_registers<const R: usize>(keys: &mut [u32]) {
        assert!(keys.len() <= R * LANES, "room for all keys");
        let mut v: [__m512i; R] = std::array::from_fn(|row| load(keys, row * LANES, u32::MAX));
        merge_rows::<R, 1>(&mut v);
        merge_rows::<R, 2>(&mut v);
        merge_rows::<R, 4>(&mut v);

        mirror::<R, 0xaaaa>(&mut v, |v| _mm512_shuffle_epi32::<0xb1>(v));
        clean_rows::<R, R>(&mut v);

        mirror::<R, 0xcccc>(&mut v, |v| _mm512_shuffle_epi32::<0x1b>(v));
        clean::<R, 0xaaaa>(&mut v, |v| _mm512_shuffle_epi32::<0xb1>(v));
        clean_rows::<R, R>(&mut v);

        mirror::<R, 0xf0f0>(&mut v, |v| _mm512_shuffle_epi32::<0x1b>(_mm512_shuffle_i32x4::<0xb1>(v, v)));
        clean::<R, 0xcccc>(&mut v, |v| _mm512_shuffle_epi32::<0x4e>(v));
        clean::<R, 0xaaaa>(&mut v, |v| _mm512_shuffle_epi32::<0xb1>(v));
        clean_rows::<R, R>(&mut v);

        mirror::<R, 0xff00>(&mut v, |v| _mm512_shuffle_epi32::<0x1b>(_mm512_shuffle_i32x4::<0x1b>(v, v)));
        clean::<R, 0xf0f0>(&mut v, |v| _mm512_shuffle_i32x4::<0xb1>(v, v));
        clean::<R, 0xcccc>(&mut v, |v| _mm512_shuffle_epi32::<0x4e>(v));
        clean::<R, 0xaaaa>(&mut v, |v| _mm512_shuffle_epi32::<0xb1>(v));
        clean_rows::<R, R>(&mut v);

        for (row, v) in transposed(v).into_iter().enumerate() {
            store(keys, row * LANES, v);
        }
    }

    /// Merges, in each column, neighbouring sorted runs of `W` rows.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn merge_rows<const R: usize, const W: usize>(v: &mut [__m512i; R]) {
        if W >= R {
            return;
        }
        for i in (0..R).filter(|i| i & W == 0) {
            exchange(v, i, i ^ (2 * W - 1));
        }
        clean_rows::<R, W>(v);
    }

    /// Sorts, in each column, bitonic runs of `W` rows.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn clean_rows<const R: usize, const W: usize>(v: &mut [__m512i; R]) {
        for distance in [4, 2, 1] {
            if distance < W {
                for i in (0..R).filter(|i| i & distance == 0) {
                    exchange(v, i, i | distance);
                }
            }
        }
    }

    /// The smaller of two rows' keys to the first, the larger to the second.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn exchange<const R: usize>(v: &mut [__m512i; R], i: usize, j: usize) {
        (v[i], v[j]) = (_mm512_min_epu32(v[i], v[j]), _mm512_max_epu32(v[i], v[j]));
    }

    /// Compares the keys of neighbouring sorted groups of columns from both ends; the larger ones go where the mask has ones.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn mirror<const R: usize, const UPPER: u16>(v: &mut [__m512i; R], partners: impl Fn(__m512i) -> __m512i) {
        let before = *v;
        for (v, partner) in v.iter_mut().zip(before.iter().rev()) {
            let partner = partners(*partner);
            *v = _mm512_mask_max_epu32(_mm512_min_epu32(*v, partner), UPPER, *v, partner);
        }
    }

    /// Compares the keys of columns at a distance; the larger ones go where the mask has ones.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn clean<const R: usize, const UPPER: u16>(v: &mut [__m512i; R], partners: impl Fn(__m512i) -> __m512i) {
        for v in v {
            let partner = partners(*v);
            *v = _mm512_mask_max_epu32(_mm512_min_epu32(*v, partner), UPPER, *v, partner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{by_digits, sort};

    /// Pseudo-random numbers.
    fn numbers(count: usize) -> Vec<u32> {
        let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        std::iter::successors(Some(7), next).map(|state| state ^ state >> 16).take(count).collect()
    }

    /// Both sorts against the standard library's; by digits only the label, the lowest bit, may be in another order.
    fn agrees(keys: &[u32]) {
        let mut expected = keys.to_vec();
        expected.sort_unstable();
        let (mut sorted, mut other) = (keys.to_vec(), Vec::new());
        sort(&mut sorted, &mut other);
        assert!(sorted.iter().map(|key| key >> 1).eq(expected.iter().map(|key| key >> 1)), "{keys:?}");
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        let mut sorted = keys.to_vec();
        by_digits(&mut sorted, &mut other);
        assert!(sorted.iter().map(|key| key >> 1).eq(expected.iter().map(|key| key >> 1)), "{keys:?}");
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        let mut sorted: Vec<u64> = keys.iter().map(|key| u64::from(*key) << 1 | 1).collect();
        by_digits(&mut sorted, &mut Vec::new());
        assert!(sorted.iter().map(|key| key >> 1).eq(expected.iter().map(|key| u64::from(*key))), "{keys:?}");
    }

    #[test]
    fn keys_of_all_patterns_and_lengths_are_sorted() {
        for length in (0..300).chain([511, 1000, 4096, 4099]) {
            let random = numbers(length);
            let at = |of: &dyn Fn(u32) -> u32| (0..u32::try_from(length).unwrap()).map(of).collect::<Vec<u32>>();
            let half = u32::try_from(length / 2).unwrap();
            agrees(&random);
            for distinct in [1, 2, 3, 7, 100] {
                agrees(&random.iter().map(|key| key % distinct).collect::<Vec<_>>());
                agrees(&random.iter().map(|key| u32::MAX - key % distinct).collect::<Vec<_>>());
            }
            agrees(&at(&|i| i));
            agrees(&at(&|i| u32::MAX - i));
            // Organ pipe, saw, and one key apart from many equal ones.
            agrees(&at(&|i| i.min(2 * half - i.min(2 * half))));
            agrees(&at(&|i| (i % 17) << 20));
            agrees(&at(&|i| if i == half { 5 } else { 1 << 30 }));
            agrees(&at(&|i| if i == half { 1 << 30 } else { 5 }));
            // Keys that differ in the lowest digits alone, beside one that does not.
            agrees(&random.iter().enumerate().map(|(i, key)| if i == 0 { 1 << 31 } else { key >> 20 }).collect::<Vec<_>>());
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn parts_beyond_the_depth_are_sorted() {
        if !crate::vectors::available() {
            return;
        }
        let mut expected = numbers(5000);
        let keys = expected.clone();
        expected.sort_unstable();
        for depth in 0..8 {
            let mut sorted = keys.clone();
            super::avx512::sort_within(&mut sorted, &mut Vec::new(), depth);
            assert_eq!(sorted, expected);
        }
    }
}

//! The ROC curve of one neuron, by its vertices.

#[cfg(target_arch = "x86_64")]
use crate::vectors;

/// The vertices of a ROC curve: after each distinct response in ascending order, the number of samples so far, toxic ones in the high half
/// of the 32 bits, non-toxic ones in the low half. The first vertex is before all samples.
#[derive(Debug, Default)]
pub(crate) struct Curve {
    /// The number of vertices beside the first.
    end: usize,
    /// The first vertex, the others, and room for more.
    vertices: Vec<u32>,
}

/// Counts that are read together, so that little room is needed for values that do not occur.
const PART: usize = 1024;

impl Curve {
    /// The largest number of samples of a curve.
    pub(crate) const MOST: usize = u16::MAX as usize;

    /// Starts before all samples.
    pub(crate) fn start(&mut self) {
        self.end = 0;
    }

    /// The vertices so far.
    pub(crate) fn vertices(&self) -> &[u32] {
        self.vertices.get(..=self.end).unwrap_or_default()
    }

    /// Continues with samples in ascending order, given as keys whose lowest bit is the label; others of the same response must not follow.
    /// Keys are below the largest two numbers.
    pub(crate) fn sorted(&mut self, keys: &[u32]) {
        let room = self.room(keys.len());
        #[cfg(target_arch = "x86_64")]
        if vectors::available() {
            // SAFETY: the processor has the instructions.
            #[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
            let written = unsafe { avx512::sorted(keys, room) };
            self.end += written;
            return;
        }
        self.end += sorted(keys, room);
    }

    /// Continues with the numbers of samples with equal responses, in ascending order of the responses. Numbers may be 0, and become 0.
    pub(crate) fn counts(&mut self, counts: &mut [u32]) {
        for counts in counts.chunks_mut(PART) {
            let room = self.room(counts.len());
            #[cfg(target_arch = "x86_64")]
            if vectors::available() {
                // SAFETY: the processor has the instructions.
                #[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
                let written = unsafe { avx512::counted(counts, room) };
                self.end += written;
                continue;
            }
            self.end += counted(counts, room);
        }
    }

    /// The last vertex and room for `most` after it, and for a vector more.
    fn room(&mut self, most: usize) -> &mut [u32] {
        let size = self.end + 1 + most + 16;
        if self.vertices.len() < size {
            self.vertices.resize(size, 0);
        }
        self.vertices.get_mut(self.end..size).unwrap_or_default()
    }
}

/// Writes vertices after the first one given; returns their number.
fn sorted(keys: &[u32], vertices: &mut [u32]) -> usize {
    let count = |key: u32| if key & 1 == 0 { 1 } else { 1 << 16 };
    let last = |place: usize, key: u32| keys.get(place + 1).is_none_or(|next| key ^ next > 1);
    append(keys.iter().enumerate().map(|(place, key)| (count(*key), last(place, *key))), vertices)
}

/// Writes vertices after the first one given; returns their number.
fn counted(counts: &mut [u32], vertices: &mut [u32]) -> usize {
    append(counts.iter_mut().map(std::mem::take).map(|count| (count, count != 0)), vertices)
}

/// Writes the running sums of the counts that are last of their response. Which ones are is unpredictable: all are written without a branch,
/// and those that are not last are overwritten.
#[allow(clippy::indexing_slicing, reason = "there is room for all counts")]
fn append(counts: impl Iterator<Item = (u32, bool)>, vertices: &mut [u32]) -> usize {
    let Some((first, vertices)) = vertices.split_first_mut() else { return 0 };
    let (mut sum, mut end) = (*first, 0);
    for (count, last) in counts {
        sum += count;
        vertices[end] = sum;
        end += usize::from(last);
    }
    end
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
mod avx512 {
    use std::arch::x86_64::*;

    use crate::vectors::{LANES, lanes, load, store};

    /// As [`super::sorted`].
    #[target_feature(enable = "avx512f,popcnt")]
    pub(super) fn sorted(keys: &[u32], vertices: &mut [u32]) -> usize {
        let (one, toxic, response) = (_mm512_set1_epi32(1), _mm512_set1_epi32(1 << 16), _mm512_set1_epi32(!1));
        let mut sums = Sums::after(vertices);
        for start in (0..keys.len()).step_by(LANES) {
            let (key, next) = (load(keys, start, 0), load(keys, start + 1, 0));
            let counts = _mm512_mask_mov_epi32(one, _mm512_test_epi32_mask(key, one), toxic);
            let left = keys.len() - start;
            let end = lanes(left) & !lanes(left - 1);
            sums.append(counts, lanes(left) & _mm512_test_epi32_mask(_mm512_xor_si512(key, next), response) | end);
        }
        sums.end
    }

    /// As [`super::counted`].
    #[target_feature(enable = "avx512f,popcnt")]
    pub(super) fn counted(counts: &mut [u32], vertices: &mut [u32]) -> usize {
        let mut sums = Sums::after(vertices);
        for start in (0..counts.len()).step_by(LANES) {
            let numbers = load(counts, start, 0);
            let occupied = _mm512_test_epi32_mask(numbers, numbers);
            if occupied != 0 {
                store(counts, start, _mm512_setzero_si512());
                sums.append(numbers, occupied);
            }
        }
        sums.end
    }

    /// Running sums of counts.
    struct Sums<'a> {
        vertices: &'a mut [u32],
        /// The number of vertices after the first.
        end: usize,
        /// The sum so far, in all lanes.
        sum: __m512i,
    }

    impl<'a> Sums<'a> {
        #[target_feature(enable = "avx512f")]
        fn after(vertices: &'a mut [u32]) -> Self {
            let sum = _mm512_set1_epi32(vertices.first().copied().unwrap_or_default().cast_signed());
            Self { vertices, end: 0, sum }
        }

        /// Appends the running sums where the mask has ones.
        #[target_feature(enable = "avx512f,popcnt")]
        #[inline]
        fn append(&mut self, counts: __m512i, last: __mmask16) {
            let zero = _mm512_setzero_si512();
            let sums = _mm512_add_epi32(counts, _mm512_alignr_epi32::<15>(counts, zero));
            let sums = _mm512_add_epi32(sums, _mm512_alignr_epi32::<14>(sums, zero));
            let sums = _mm512_add_epi32(sums, _mm512_alignr_epi32::<12>(sums, zero));
            let sums = _mm512_add_epi32(sums, _mm512_alignr_epi32::<8>(sums, zero));
            let vertices = _mm512_maskz_compress_epi32(last, _mm512_add_epi32(sums, self.sum));
            self.sum = _mm512_add_epi32(self.sum, _mm512_permutexvar_epi32(_mm512_set1_epi32(15), sums));
            if let Some(room) = self.vertices.get_mut(self.end + 1..).and_then(|room| room.first_chunk_mut::<LANES>()) {
                // SAFETY: the room is that of a vector.
                unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), vertices) };
            }
            self.end += last.count_ones() as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Curve;

    /// Sums after each distinct response.
    fn by_definition(keys: &[u32]) -> Vec<u32> {
        let mut vertices = vec![0];
        for tied in keys.chunk_by(|a, b| a >> 1 == b >> 1) {
            let tied: u32 = tied.iter().map(|key| if key & 1 == 0 { 1 } else { 1 << 16 }).sum();
            vertices.push(vertices.last().unwrap() + tied);
        }
        vertices
    }

    /// Pseudo-random numbers below a bound.
    fn numbers(count: usize, bound: u32) -> Vec<u32> {
        let mut state = 12345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        (0..count).map(|_| next() % bound).collect()
    }

    #[test]
    fn sorted_keys_give_the_sums_after_each_response() {
        for bound in [1, 2, 3, 20, 1000, 1 << 24] {
            for length in (0..70).chain([1000, 65_535]) {
                let mut keys = numbers(length, bound);
                keys.sort_unstable();
                // The largest keys are as good as others.
                keys.iter_mut().rev().take(length % 3).for_each(|key| *key = u32::MAX);
                let expected = by_definition(&keys);
                let mut curve = Curve::default();
                curve.sorted(&keys);
                assert_eq!(curve.vertices(), expected);
                let mut plain = vec![0; length + 1];
                let end = super::sorted(&keys, &mut plain);
                assert_eq!(plain[..=end], expected);
            }
        }
    }

    #[test]
    fn counts_give_the_sums_where_they_are_not_zero() {
        for length in (0..70).chain([1023, 1024, 1025, 4000]) {
            // Most are 0, and so are all of some vectors.
            let counts: Vec<u32> =
                numbers(length, 3).iter().zip(numbers(length, 97)).map(|(c, zero)| if zero < 60 { 0 } else { *c }).collect();
            let sums = counts.iter().scan(0, |sum, count| {
                *sum += count;
                Some((*sum, *count))
            });
            let expected: Vec<u32> = [0].into_iter().chain(sums.filter(|(_, count)| *count > 0).map(|(sum, _)| sum)).collect();
            let (mut curve, mut read) = (Curve::default(), counts.clone());
            let (early, late) = read.split_at_mut(length / 3);
            curve.counts(early);
            curve.counts(late);
            assert!(read.iter().all(|count| *count == 0));
            assert_eq!(curve.vertices().get(1..).unwrap_or_default(), &expected[1..]);
            let (mut plain, mut read) = (vec![0; length + 1], counts);
            let end = super::counted(&mut read, &mut plain);
            assert!(read.iter().all(|count| *count == 0));
            assert_eq!(plain[..=end], expected);
        }
    }
}

//! The counts from which AUROC, its standard error and average precision are computed.

use crate::classes::Classes;

/// The counts over the samples of one neuron in ascending order of their responses.
///
/// All but average precision are integers, which do not depend on the sorting method.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    /// The numbers of samples counted so far.
    toxic: u64,
    non_toxic: u64,
    /// Twice the number of pairs in which the toxic response is higher, ties counting half.
    doubled_area: u64,
    /// The sum over toxic samples of the square of twice the non-toxic samples below.
    toxic_squares: u128,
    /// The sum over non-toxic samples of the square of twice the toxic samples below.
    non_toxic_squares: u128,
    /// The sum over distinct responses of precision times the number of toxic samples there, if it is requested.
    precision: Option<f64>,
    classes: Classes,
}

/// Eight samples in ascending order, none tied, as a byte: bit i is 1 where the i-th is toxic.
#[derive(Debug, Clone, Copy)]
struct Eight {
    /// The number of toxic samples.
    count: u16,
    /// The sum over toxic samples of the non-toxic samples below, and of their squares.
    toxic: [u16; 2],
    /// The same over non-toxic samples.
    non_toxic: [u16; 2],
}

const EIGHTS: [Eight; 256] = {
    let mut table = [Eight { count: 0, toxic: [0; 2], non_toxic: [0; 2] }; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut ones, mut zeros, mut bit) = (0, 0, 0);
        let mut entry = Eight { count: 0, toxic: [0; 2], non_toxic: [0; 2] };
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                entry.toxic[0] += zeros;
                entry.toxic[1] += zeros * zeros;
                ones += 1;
            } else {
                entry.non_toxic[0] += ones;
                entry.non_toxic[1] += ones * ones;
                zeros += 1;
            }
            bit += 1;
        }
        entry.count = ones;
        #[allow(clippy::indexing_slicing, reason = "a byte is an index of 256 entries")]
        {
            table[byte] = entry;
        }
        byte += 1;
    }
    table
};

impl Tally {
    pub(crate) fn new(classes: Classes, precision: bool) -> Self {
        Self {
            toxic: 0,
            non_toxic: 0,
            doubled_area: 0,
            toxic_squares: 0,
            non_toxic_squares: 0,
            precision: precision.then_some(0.0),
            classes,
        }
    }

    /// Whether samples without ties may be counted by eights.
    pub(crate) fn takes_eights(&self) -> bool {
        // The squares of eight samples fit into 64 bits.
        self.precision.is_none() && self.classes.samples() < 1 << 28
    }

    /// Counts the next samples, whose responses are equal.
    #[inline(always)]
    pub(crate) fn tied(&mut self, toxic: u64, non_toxic: u64) {
        let below = 2 * self.non_toxic + non_toxic;
        let toxic_below = 2 * self.toxic + toxic;
        let area = toxic * below;
        self.doubled_area += area;
        self.toxic_squares += u128::from(area) * u128::from(below);
        self.non_toxic_squares += u128::from(non_toxic * toxic_below) * u128::from(toxic_below);
        if let Some(sum) = &mut self.precision {
            let Classes { toxic: n1, non_toxic: n0 } = self.classes;
            let hits = n1 - self.toxic;
            *sum += toxic as f64 * (hits as f64 / (hits + n0 - self.non_toxic) as f64);
        }
        self.toxic += toxic;
        self.non_toxic += non_toxic;
    }

    /// Counts the next eight samples, none tied with another.
    #[inline(always)]
    pub(crate) fn eight(&mut self, byte: u8) {
        #[allow(clippy::indexing_slicing, reason = "a byte is an index of 256 entries")]
        let entry = EIGHTS[usize::from(byte)];
        let toxic = u64::from(entry.count);
        let non_toxic = 8 - toxic;
        let squares = |count: u64, before: u64, [sum, squares]: [u16; 2]| {
            u128::from(4 * (before * (count * before + 2 * u64::from(sum)) + u64::from(squares)))
        };
        self.doubled_area += 2 * (toxic * self.non_toxic + u64::from(entry.toxic[0]));
        self.toxic_squares += squares(toxic, self.non_toxic, entry.toxic);
        self.non_toxic_squares += squares(non_toxic, self.toxic, entry.non_toxic);
        self.toxic += toxic;
        self.non_toxic += non_toxic;
    }

    /// Counts the next samples by the numbers of equal responses: toxic ones in the high half, non-toxic ones in the low half. There must
    /// be no more than 65,535 samples in total.
    #[allow(clippy::indexing_slicing, reason = "a part has no more counts than there is room for")]
    pub(crate) fn counts(&mut self, counts: &[u32]) {
        const PART: usize = 1024;
        let mut occupied = [0; PART];
        for counts in counts.chunks(PART) {
            // Many counts are 0 in an unpredictable order: they are removed without a branch.
            let mut found = 0;
            for count in counts {
                occupied[found & (PART - 1)] = *count;
                found += usize::from(*count != 0);
            }
            self.occupied(occupied.get(..found).unwrap_or_default());
        }
    }

    /// Counts the next samples as [`counts`](Self::counts) does, without zeros.
    fn occupied(&mut self, counts: &[u32]) {
        let counts = counts.iter().map(|count| (u64::from(count >> 16), u64::from(count & 0xffff)));
        if self.precision.is_some() {
            return counts.into_iter().for_each(|(toxic, non_toxic)| self.tied(toxic, non_toxic));
        }
        // As in `tied`; the squares of so few samples fit into 64 bits.
        let Self { toxic: toxic_before, non_toxic: non_toxic_before, doubled_area, .. } = self;
        let (mut toxic_squares, mut non_toxic_squares) = (0u64, 0u64);
        for (toxic, non_toxic) in counts {
            let below = 2 * *non_toxic_before + non_toxic;
            let toxic_below = 2 * *toxic_before + toxic;
            let area = toxic * below;
            *doubled_area += area;
            toxic_squares += area * below;
            non_toxic_squares += non_toxic * toxic_below * toxic_below;
            *toxic_before += toxic;
            *non_toxic_before += non_toxic;
        }
        self.toxic_squares += u128::from(toxic_squares);
        self.non_toxic_squares += u128::from(non_toxic_squares);
    }

    /// Counts samples in ascending order, given as keys whose lowest bit is the label.
    pub(crate) fn sorted(&mut self, keys: &[u64]) {
        for tied in keys.chunk_by(|a, b| a >> 1 == b >> 1) {
            let toxic = tied.iter().map(|key| key & 1).sum();
            self.tied(toxic, tied.len() as u64 - toxic);
        }
    }

    /// Twice the Mann-Whitney statistic.
    pub(crate) fn doubled_area(&self) -> u64 {
        self.doubled_area
    }

    /// The area under the ROC curve.
    pub(crate) fn auroc(&self) -> f64 {
        let Classes { toxic, non_toxic } = self.classes;
        self.doubled_area as f64 / (2 * toxic * non_toxic) as f64
    }

    /// The standard error by DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988): the variances of the structural components of both
    /// classes, over the class sizes. NaN if a class has one sample.
    pub(crate) fn standard_error(&self) -> f64 {
        let Classes { toxic, non_toxic } = self.classes;
        // The variance of `of` placements among `among` samples, from the sums of the doubled numbers below.
        let component = |of: u64, among: u64, sum: u64, squares: u128| {
            let (n, sum) = (u128::from(of), u128::from(sum));
            let spread = (n * squares - sum * sum) as f64;
            let scale = 2.0 * among as f64;
            spread / (of as f64 * of as f64 * (of as f64 - 1.0) * scale * scale)
        };
        let above = 2 * toxic * non_toxic - self.doubled_area;
        (component(toxic, non_toxic, self.doubled_area, self.toxic_squares) + component(non_toxic, toxic, above, self.non_toxic_squares))
            .sqrt()
    }

    /// Average precision; NaN unless requested.
    pub(crate) fn average_precision(&self) -> f64 {
        self.precision.map_or(f64::NAN, |sum| sum / self.classes.toxic as f64)
    }
}

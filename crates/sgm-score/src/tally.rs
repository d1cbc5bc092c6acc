//! The counts from which AUROC, its standard error and average precision are computed.

use crate::classes::Classes;
use crate::curve::Curve;
use crate::dispatch::dispatch;

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

    /// Counts all samples by the vertices of their ROC curve.
    pub(crate) fn curve(&mut self, curve: &Curve) {
        let vertices = curve.vertices();
        if self.precision.is_some() {
            for (before, after) in vertices.iter().zip(vertices.iter().skip(1)) {
                let count = after - before;
                self.tied(u64::from(count >> 16), u64::from(count & 0xffff));
            }
            return;
        }
        let last = vertices.last().copied().unwrap_or_default();
        let (area, toxic_squares, non_toxic_squares) = dispatch(|| integrals(vertices));
        self.toxic += u64::from(last >> 16);
        self.non_toxic += u64::from(last & 0xffff);
        self.doubled_area += area;
        self.toxic_squares += u128::from(toxic_squares);
        self.non_toxic_squares += u128::from(non_toxic_squares);
    }

    /// Counts samples in ascending order, given as keys whose lowest bit is the label.
    pub(crate) fn sorted<K: Copy + Into<u64>>(&mut self, keys: &[K]) {
        for tied in keys.chunk_by(|a, b| (*a).into() >> 1 == (*b).into() >> 1) {
            let toxic = tied.iter().map(|key| (*key).into() & 1).sum();
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

/// What [`Tally::tied`] adds to the area and to both sums of squares, over all segments of a ROC curve.
#[inline(always)]
fn integrals(vertices: &[u32]) -> (u64, u64, u64) {
    let (mut area, mut toxic_squares, mut non_toxic_squares) = (0u64, 0u64, 0u64);
    for (before, after) in vertices.iter().zip(vertices.iter().skip(1)) {
        let (toxic_before, toxic_after) = (before >> 16, after >> 16);
        let (non_toxic_before, non_toxic_after) = (before & 0xffff, after & 0xffff);
        let below = non_toxic_before + non_toxic_after;
        let toxic_below = toxic_before + toxic_after;
        // At most half the square of the number of samples: 31 bits.
        let toxic_area = (toxic_after - toxic_before) * below;
        let non_toxic_area = (non_toxic_after - non_toxic_before) * toxic_below;
        area += u64::from(toxic_area);
        toxic_squares += u64::from(toxic_area) * u64::from(below);
        non_toxic_squares += u64::from(non_toxic_area) * u64::from(toxic_below);
    }
    (area, toxic_squares, non_toxic_squares)
}

//! The sizes of the two classes of samples.

use crate::{Error, Result};

/// The sizes of the classes, at least 1 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Classes {
    pub(crate) toxic: u64,
    pub(crate) non_toxic: u64,
}

impl Classes {
    /// Counts the classes and checks that there is one label for each sample.
    pub(crate) fn of(labels: &[bool], samples: usize) -> Result<Self> {
        if labels.len() != samples {
            return Err(Error::Labels { labels: labels.len(), samples });
        }
        let toxic = labels.iter().filter(|l| **l).count();
        let non_toxic = samples - toxic;
        if toxic == 0 || non_toxic == 0 {
            return Err(Error::SingleClass { toxic, non_toxic });
        }
        // Twice the number of pairs must fit into 64 bits, a sample's index into 31.
        if samples >= 1 << 31 {
            return Err(Error::TooManySamples(samples));
        }
        Ok(Self { toxic: toxic as u64, non_toxic: non_toxic as u64 })
    }

    pub(crate) fn samples(self) -> u64 {
        self.toxic + self.non_toxic
    }
}

/// The samples' indices, toxic ones first, each class in the given order.
pub(crate) fn toxic_first(labels: &[bool]) -> Vec<usize> {
    let of = |class: bool| labels.iter().enumerate().filter(move |(_, l)| **l == class).map(|(i, _)| i);
    of(true).chain(of(false)).collect()
}

//! A worker's part of a capture.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// One worker's part of a capture: `index` of `count`, counted from 0; displays as, and parses from, `0/4`.
///
/// Workers share a capture without communication: worker `i` of `n` writes the shards whose index is `i` modulo `n`. The contents of a
/// shard depend on neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Partition {
    index: usize,
    count: usize,
}

impl Partition {
    /// The whole capture, for a single worker.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Part `index` of `count`.
    ///
    /// # Errors
    ///
    /// [`Error::Partition`] unless `index` is below `count`.
    pub fn new(index: usize, count: usize) -> Result<Self> {
        if index < count {
            return Ok(Self { index, count });
        }
        Err(Error::Partition { reason: format!("there is no part {index} of {count}; parts are counted from 0") })
    }

    /// The part that a scheduler assigned to this process, or [`WHOLE`](Self::WHOLE) without a scheduler.
    ///
    /// A Slurm job array sets `SLURM_ARRAY_TASK_ID`, `_COUNT`, `_MIN` and, with a step, `_STEP`. A Kubernetes Job with
    /// `completionMode: Indexed` sets `JOB_COMPLETION_INDEX` but not the number of completions, so the job's manifest must set
    /// `JOB_COMPLETIONS` to the value of `completions`.
    ///
    /// # Errors
    ///
    /// [`Error::Partition`] when the variables are incomplete or contradict each other: a wrong guess would leave shards unwritten.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The part by the variables that `get` returns, as in [`from_environment`](Self::from_environment).
    ///
    /// # Errors
    ///
    /// As [`from_environment`](Self::from_environment).
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let wrong = |reason: String| Error::Partition { reason };
        let number = |name: &str| -> Result<Option<usize>> {
            let parse = |value: String| value.trim().parse().map_err(|_| wrong(format!("{name}=`{value}` is not a whole number")));
            get(name).map(parse).transpose()
        };
        let needed = |name: &str, beside: &str| {
            number(name)?
                .ok_or_else(|| wrong(format!("{beside} is set but {name} is not; set it to the number of workers, or give the part")))
        };
        if let Some(id) = number("SLURM_ARRAY_TASK_ID")? {
            let count = needed("SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_ID")?;
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let place = id.checked_sub(first).filter(|offset| offset % step == 0).map(|offset| offset / step);
            let place = place.filter(|place| *place < count);
            return place.map(|index| Self { index, count }).ok_or_else(|| {
                wrong(format!(
                    "Slurm task {id} has no place among {count} tasks from {first} in steps of {step}; \
                     submit a range such as --array=0-7, or give the part"
                ))
            });
        }
        if let Some(index) = number("JOB_COMPLETION_INDEX")? {
            return Self::new(index, needed("JOB_COMPLETIONS", "JOB_COMPLETION_INDEX")?);
        }
        Ok(Self::WHOLE)
    }

    /// Whether a shard, by its index, belongs to this worker.
    pub fn includes(self, shard: usize) -> bool {
        shard % self.count.max(1) == self.index
    }

    /// The number of workers.
    pub fn count(self) -> usize {
        self.count
    }
}

impl Default for Partition {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Partition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        let (index, count) =
            numbers.ok_or_else(|| Error::Partition { reason: format!("`{text}` is no part; write 0/4 for the first of four") })?;
        Self::new(index, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<String> {
        Partition::from_variables(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())).map(|p| p.to_string())
    }

    #[test]
    fn schedulers_are_understood() {
        assert_eq!(from(&[]).unwrap(), "0/1");
        let id = |id, min, count, step| {
            from(&[
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_MIN", min),
                ("SLURM_ARRAY_TASK_COUNT", count),
                ("SLURM_ARRAY_TASK_STEP", step),
            ])
        };
        assert_eq!(id("3", "0", "8", "1").unwrap(), "3/8");
        // --array=1-8 and --array=10-40:10
        assert_eq!(id("8", "1", "8", "1").unwrap(), "7/8");
        assert_eq!(id("30", "10", "4", "10").unwrap(), "2/4");
        assert_eq!(from(&[("JOB_COMPLETION_INDEX", "2"), ("JOB_COMPLETIONS", "3")]).unwrap(), "2/3");
        // A list such as --array=1,5,7 has no step.
        for wrong in [id("7", "1", "3", "1"), id("0", "1", "3", "1"), id("15", "10", "4", "10"), id("x", "0", "2", "1")] {
            assert!(matches!(wrong, Err(Error::Partition { .. })));
        }
        for (name, other) in [("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"), ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")] {
            assert!(from(&[(name, "1")]).unwrap_err().to_string().contains(other));
        }
        assert!(from(&[("JOB_COMPLETION_INDEX", "3"), ("JOB_COMPLETIONS", "3")]).is_err());
    }

    #[test]
    fn every_shard_is_exactly_one_workers() {
        for count in 1..7 {
            let workers: Vec<_> = (0..count).map(|i| format!("{i}/{count}").parse::<Partition>().unwrap()).collect();
            assert!((0..50).all(|shard| workers.iter().filter(|w| w.includes(shard)).count() == 1));
        }
        for text in ["", "1", "1/1", "-1/2", "a/b", "0/0", "1/2/3"] {
            assert!(text.parse::<Partition>().is_err(), "{text}");
        }
    }
}

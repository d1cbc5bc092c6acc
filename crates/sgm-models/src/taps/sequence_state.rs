//! The state that taps keep for each sequence of a batch.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The values that taps keep for one sequence from one forward pass to the next.
///
/// The state is part of the cache. A prefill starts with an empty state, a clone of the cache gets its own copy, and
/// the state of a sequence is dropped when the sequence leaves the batch. Decoding with a cache therefore always sees
/// the values stored for that cache, whatever else runs on the same model.
#[derive(Debug, Default)]
pub struct SequenceState(Mutex<BTreeMap<u64, Arc<dyn Any + Send + Sync>>>);

impl SequenceState {
    /// The value last stored under a key, if it is of type `T`.
    pub fn get<T: Send + Sync + 'static>(&self, key: u64) -> Option<Arc<T>> {
        let stored = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        stored.and_then(|value| value.downcast().ok())
    }

    /// Stores a value under a key and replaces the previous one. The key must not be used by any other tap of the
    /// model.
    pub fn set<T: Send + Sync + 'static>(&self, key: u64, value: T) {
        self.set_shared(key, Arc::new(value));
    }

    /// Stores a shared value, otherwise as [`set`](Self::set).
    pub fn set_shared<T: Send + Sync + 'static>(&self, key: u64, value: Arc<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value);
    }
}

impl Clone for SequenceState {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

/// The states of the sequences of a batch.
#[derive(Debug, Default)]
pub(crate) struct SequenceStates(Vec<Arc<SequenceState>>);

impl SequenceStates {
    /// Empty states for a number of sequences.
    pub(crate) fn new(sequences: usize) -> Self {
        Self((0..sequences).map(|_| Arc::default()).collect())
    }

    /// The states themselves, shared with one forward pass.
    pub(crate) fn shared(&self) -> Vec<Arc<SequenceState>> {
        self.0.clone()
    }

    /// Copies of the states of the given sequences, which are indices into the batch.
    pub(crate) fn select(&self, keep: &[usize]) -> Self {
        Self(keep.iter().filter_map(|i| self.0.get(*i)).map(|state| Arc::new(SequenceState::clone(state))).collect())
    }
}

impl Clone for SequenceStates {
    /// Copies every state; changes to a copy do not affect the original.
    fn clone(&self) -> Self {
        Self(self.0.iter().map(|state| Arc::new(SequenceState::clone(state))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_their_values_and_are_independent() {
        let states = SequenceStates::new(2);
        states.shared()[1].set(7, 1.5f32);
        let copy = states.clone();
        let kept = states.select(&[1]);
        states.shared()[1].set(7, 2.5f32);
        let get = |states: &SequenceStates, at: usize| states.shared()[at].get::<f32>(7).map(|value| *value);
        assert_eq!((get(&states, 1), get(&copy, 1), get(&kept, 0)), (Some(2.5), Some(1.5), Some(1.5)));
        assert_eq!(get(&states, 0), None);
        assert!(states.shared()[1].get::<u32>(7).is_none(), "another type");
    }
}

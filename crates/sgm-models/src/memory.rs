use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What taps remember of one sequence from one forward pass to the next.
///
/// It is part of the cache: a prefill begins with nothing, a clone of the cache goes its own way from then on, and a sequence
/// that leaves the batch is forgotten. So whoever decodes with a cache gets what was remembered for it, whatever else runs
/// on the same model.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<u64, Arc<dyn Any + Send + Sync>>>);

impl Memory {
    /// What was last stored under a key, if it is of this type.
    pub fn recall<T: Send + Sync + 'static>(&self, key: u64) -> Option<Arc<T>> {
        let stored = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        stored.and_then(|value| value.downcast().ok())
    }

    /// Stores something under a key, in the place of what was there. A tap takes a key that no other tap of the model uses.
    pub fn remember<T: Send + Sync + 'static>(&self, key: u64, value: T) {
        self.remember_shared(key, Arc::new(value));
    }

    /// The same with what is shared already.
    pub fn remember_shared<T: Send + Sync + 'static>(&self, key: u64, value: Arc<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value);
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

/// The memories of a batch.
#[derive(Debug, Default)]
pub(crate) struct Memories(Vec<Arc<Memory>>);

impl Memories {
    /// Empty memories of so many sequences.
    pub(crate) fn new(sequences: usize) -> Self {
        Self((0..sequences).map(|_| Arc::default()).collect())
    }

    /// The memories themselves, for one forward pass.
    pub(crate) fn shared(&self) -> Vec<Arc<Memory>> {
        self.0.clone()
    }

    /// Those of the given sequences, which are indices into the batch.
    pub(crate) fn of(&self, keep: &[usize]) -> Self {
        Self(keep.iter().filter_map(|i| self.0.get(*i)).map(|memory| Arc::new(Memory::clone(memory))).collect())
    }
}

impl Clone for Memories {
    /// A copy that goes its own way.
    fn clone(&self) -> Self {
        Self(self.0.iter().map(|memory| Arc::new(Memory::clone(memory))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_go_their_own_way_and_keep_what_was_there() {
        let memories = Memories::new(2);
        memories.shared()[1].remember(7, 1.5f32);
        let copy = memories.clone();
        let kept = memories.of(&[1]);
        memories.shared()[1].remember(7, 2.5f32);
        let recall = |memories: &Memories, at: usize| memories.shared()[at].recall::<f32>(7).map(|value| *value);
        assert_eq!((recall(&memories, 1), recall(&copy, 1), recall(&kept, 0)), (Some(2.5), Some(1.5), Some(1.5)));
        assert_eq!(recall(&memories, 0), None);
        assert!(memories.shared()[1].recall::<u32>(7).is_none(), "another type");
    }
}

//! Candidates that are related by an image or a prompt, which have to be in one split.

use std::collections::HashMap;

use crate::data::candidate::{Candidate, Hash};

/// The connected component of every candidate, related by image or prompt, and the size of the largest.
pub(super) fn components(candidates: &[Candidate]) -> (Vec<usize>, usize) {
    let mut parents: Vec<usize> = (0..candidates.len()).collect();
    let mut first: HashMap<(bool, Hash), usize> = HashMap::new();
    for (i, candidate) in candidates.iter().enumerate() {
        let keys = [Some((false, candidate.prompt)), candidate.image.map(|image| (true, image))];
        for key in keys.into_iter().flatten() {
            let other = *first.entry(key).or_insert(i);
            let (a, b) = (root(&mut parents, i), root(&mut parents, other));
            // The lower index is the root, so that it does not depend on the order of the relations.
            if let Some(parent) = parents.get_mut(a.max(b)) {
                *parent = a.min(b);
            }
        }
    }
    let roots: Vec<usize> = (0..candidates.len()).map(|i| root(&mut parents, i)).collect();
    let mut sizes: HashMap<usize, usize> = HashMap::new();
    roots.iter().for_each(|root| *sizes.entry(*root).or_default() += 1);
    (roots, sizes.into_values().max().unwrap_or(0))
}

/// The root of a tree, halving the path to it.
fn root(parents: &mut [usize], mut i: usize) -> usize {
    while let Some(&parent) = parents.get(i)
        && parent != i
    {
        let grandparent = parents.get(parent).copied().unwrap_or(parent);
        if let Some(slot) = parents.get_mut(i) {
            *slot = grandparent;
        }
        i = grandparent;
    }
    i
}

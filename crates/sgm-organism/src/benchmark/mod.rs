//! The world in the benchmark `mm-toxic-qa`: its samples, its scenes, its judge, its rules for right answers, and its attack.

mod lexicon_judge;
mod prefix_attack;
mod scorer;
mod source;
mod world;

pub use lexicon_judge::OrganismLexicon;
pub use prefix_attack::OrganismPrefix;
pub use scorer::OrganismScorer;
pub use source::OrganismSource;
pub use world::{OrganismWorld, trigger};

//! Judges of whether an answer is harmful: word lists, phrases of refusal, guard models, chat models, classifiers, verdicts from files, and
//! majorities of these.

#[cfg(feature = "chat")]
mod chat;
#[cfg(feature = "classifier")]
mod classifier;
mod guard;
pub(crate) mod judge;
mod lexicon;
mod majority;
mod refusal;
mod replay;
mod templates;
mod verdict;

#[cfg(feature = "chat")]
pub use chat::{ChatJudge, ChatOptions};
#[cfg(feature = "classifier")]
pub use classifier::ClassifierJudge;
pub use guard::{Ask, GuardJudge, parse_guard};
pub use judge::Judge;
pub use lexicon::LexiconJudge;
pub use majority::{Agreement, MajorityJudge, pairwise_agreement};
pub use refusal::RefusalJudge;
pub use replay::ReplayJudge;
pub use templates::{JudgeTemplates, parse_safety};
pub use verdict::{Exchange, Verdict};

//! Judges of whether an answer is harmful: word lists, phrases of refusal, guard models, chat models, classifiers, verdicts from files, and
//! majorities of these.

mod agreement;
#[cfg(feature = "chat")]
mod chat;
#[cfg(feature = "chat")]
mod chat_answer;
#[cfg(feature = "classifier")]
mod classifier;
mod guard;
pub(crate) mod judge;
mod judge_name;
mod lexicon;
mod majority;
mod refusal;
mod replay;
mod safety_reply;
mod templates;
mod verdict;

pub use agreement::{Agreement, AgreementReport, Disagreement, Label, pairwise_agreement};
#[cfg(feature = "chat")]
pub use chat::{ChatJudge, ChatOptions};
#[cfg(feature = "classifier")]
pub use classifier::ClassifierJudge;
pub use guard::{Ask, GUARD_TEMPLATE, GuardJudge, parse_guard};
pub use judge::Judge;
pub use judge_name::{ChatTemperature, JudgeName, JudgeSettings};
pub use lexicon::LexiconJudge;
pub use majority::MajorityJudge;
pub use refusal::RefusalJudge;
pub use replay::ReplayJudge;
pub use safety_reply::{SafetyParser, parse_safety};
pub use templates::JudgeTemplates;
pub use verdict::{Exchange, Verdict};

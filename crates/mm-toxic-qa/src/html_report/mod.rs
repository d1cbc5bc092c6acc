//! An experiment on one page: a self-contained HTML file with its figures, and the same as Markdown and JSON.
//!
//! An [`HtmlReport`] is plain data: a report, and more about the experiment where it is given. [`HtmlReport::html`] makes one file that
//! needs no network, no script and no other file, follows the reader's choice of light or dark, and can be printed. Every text from outside
//! (names, prompts, answers) is escaped. [`HtmlReport::markdown`] has the same content, with tables in place of figures; as JSON (serde)
//! the page is data again.
//!
//! ```
//! use mm_toxic_qa::html_report::HtmlReport;
//! use mm_toxic_qa::{Provenance, Report, Run, SeedOutcome};
//!
//! let run = Run::from_seeds("<none>", 4896, &[SeedOutcome::default()])?;
//! let page = HtmlReport::new(Report::new(Provenance::default(), vec![run]));
//! assert!(page.html()?.contains("&lt;none&gt;"));
//! # Ok::<(), mm_toxic_qa::Error>(())
//! ```

mod answers;
mod attribution;
mod auroc;
mod axis;
mod budget;
mod document;
mod experts;
mod harm;
mod headline;
mod provenance;
mod report;
mod svg;
mod trade_off;

pub use answers::{Answer, AnswerPair, Answers, picture};
pub use attribution::{LayerAttribution, ModalityAttribution};
pub use auroc::{AurocDistribution, NullDistribution};
pub use budget::Budget;
pub use experts::SiteSuppression;
pub use report::HtmlReport;

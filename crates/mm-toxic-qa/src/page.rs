//! An experiment on one page: a self-contained HTML file with its figures, and the same as Markdown and JSON.
//!
//! A [`Page`] is plain data: a report, and whatever else there is to show of what led to it. [`Page::html`] makes one file that needs no
//! network, no script and no other file, follows the reader's choice of light or dark, and can be printed. Everything from outside
//! (names, prompts, answers) is escaped. [`Page::markdown`] says the same, its figures as tables; as JSON (serde) a page is data again.
//!
//! ```
//! use mm_toxic_qa::page::Page;
//! use mm_toxic_qa::{Provenance, Report, Run, SeedOutcome};
//!
//! let run = Run::from_seeds("<none>", 4896, &[SeedOutcome::default()])?;
//! let page = Page::new(Report::new(Provenance::default(), vec![run]));
//! assert!(page.html()?.contains("&lt;none&gt;"));
//! # Ok::<(), mm_toxic_qa::Error>(())
//! ```

mod answers;
mod attribution;
mod auroc;
mod axis;
mod document;
mod experts;
mod harm;
mod headline;
mod provenance;
mod svg;
mod trade_off;

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde::{Deserialize, Serialize};

use self::document::Section;
use crate::{Error, Report, Result, Run};

pub use self::answers::{Answer, AnswerPair, Answers, picture};
pub use self::attribution::{LayerAttribution, ModalityAttribution};
pub use self::auroc::{AurocDistribution, NullDistribution};
pub use self::experts::SiteSuppression;

/// What a page shows. Beside the report everything may be absent, and its section is then left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The page's title.
    pub title: String,
    /// The experiment.
    pub report: Report,
    /// The prices that its main finding may cost.
    #[serde(default)]
    pub budget: Budget,
    /// A report of many settings, for the trade-off between harm and utility; without it the experiment's own runs are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Report>,
    /// What an intervention does at each site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<SiteSuppression>,
    /// How well neurons tell toxic from non-toxic samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auroc: Option<AurocDistribution>,
    /// What experts respond to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribution: Option<ModalityAttribution>,
    /// Answers without and with an intervention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
    /// The SHA-256 of the files the page was made from, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// How much utility less harm may cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// How much higher perplexity may be, as a fraction.
    pub perplexity: f64,
    /// How much lower the share of visual questions answered right may be.
    pub vqa: f64,
}

impl Default for Budget {
    /// 5 % of perplexity and 2 points of VQA.
    fn default() -> Self {
        Self { perplexity: 0.05, vqa: 0.02 }
    }
}

impl Budget {
    /// Whether a run stays within it; what was not measured costs nothing.
    fn holds(&self, run: &Run, base: &Run) -> bool {
        // Two shares that differ by the budget differ by a little more after rounding.
        let within = |cost: f64, most: f64| cost <= most + 1e-9;
        run.perplexity_change(base).is_none_or(|change| within(change, self.perplexity))
            && run.vqa_change(base).is_none_or(|change| within(-change, self.vqa))
    }
}

impl Page {
    /// A page of a report alone.
    pub fn new(report: Report) -> Self {
        Self {
            title: format!("Safety glasses on {}", report.provenance.model),
            report,
            budget: Budget::default(),
            tuning: None,
            sites: Vec::new(),
            auroc: None,
            attribution: None,
            answers: None,
            files: BTreeMap::new(),
        }
    }

    /// The page as one HTML file.
    ///
    /// # Errors
    ///
    /// [`Error::Page`] when the template engine fails, which no content makes it do.
    pub fn html(&self) -> Result<String> {
        let failed = |e: minijinja::Error| Error::Page { reason: format!("{e:#}") };
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?);
        let context =
            View { style: include_str!("page/page.css"), title: &self.title, about: self.report.title(), sections: self.sections() };
        // Its name makes the engine escape what it writes.
        environment.add_template("page.html", include_str!("page/page.html")).map_err(failed)?;
        environment.get_template("page.html").and_then(|template| template.render(Value::from(Serde(context)))).map_err(failed)
    }

    /// The page as Markdown, its figures as tables and its pictures left out.
    pub fn markdown(&self) -> String {
        let sections: Vec<String> = self.sections().iter().map(Section::markdown).collect();
        format!("# {}\n\n{}\n\n{}", document::plain(&self.title), document::plain(&self.report.title()), sections.join("\n"))
    }

    fn sections(&self) -> Vec<Section> {
        let sections = [
            Some(headline::section(&self.report, &self.budget)),
            harm::section(&self.report),
            trade_off::section(self.tuning.as_ref().unwrap_or(&self.report), self.tuning.is_some(), &self.budget),
            experts::section(&self.sites),
            self.auroc.as_ref().and_then(auroc::section),
            self.attribution.as_ref().and_then(attribution::section),
            self.answers.as_ref().map(answers::section),
            Some(provenance::section(&self.report, &self.files)),
        ];
        sections.into_iter().flatten().collect()
    }
}

/// What the template is given.
#[derive(Serialize)]
struct View<'a> {
    style: &'static str,
    title: &'a str,
    about: String,
    sections: Vec<Section>,
}

/// A share in per cent, one decimal.
fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

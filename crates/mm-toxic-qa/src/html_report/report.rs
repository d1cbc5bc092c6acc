//! The report page: its content, and its HTML and Markdown.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde::{Deserialize, Serialize};

use super::answers::{self, Answers};
use super::attribution::{self, ModalityAttribution};
use super::auroc::{self, AurocDistribution};
use super::budget::Budget;
use super::document::{self, Section};
use super::experts::{self, SiteSuppression};
use super::{harm, headline, provenance, trade_off};
use crate::{Error, Report, Result};

/// The content of a page. Everything except the report may be absent, and its section is then left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HtmlReport {
    /// The page's title.
    pub title: String,
    /// The experiment.
    pub report: Report,
    /// The budget of its main finding.
    #[serde(default)]
    pub budget: Budget,
    /// A report of many settings, for the trade-off between harm and utility; without it the experiment's own runs are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Report>,
    /// The effect of an intervention at each site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<SiteSuppression>,
    /// How well neurons separate toxic from non-toxic samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auroc: Option<AurocDistribution>,
    /// The inputs that experts respond to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribution: Option<ModalityAttribution>,
    /// Answers without and with an intervention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
    /// The SHA-256 of the files that the page was made from, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

impl HtmlReport {
    /// A page of a report alone, without further sections.
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
    /// [`Error::HtmlReport`] when the template engine fails; no content makes it fail.
    pub fn html(&self) -> Result<String> {
        let failed = |e: minijinja::Error| Error::HtmlReport { reason: format!("{e:#}") };
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?);
        let context =
            Context { style: include_str!("report.css"), title: &self.title, about: self.report.title(), sections: self.sections() };
        // The name of the template makes the engine escape every value.
        environment.add_template("report.html", include_str!("report.html")).map_err(failed)?;
        environment.get_template("report.html").and_then(|template| template.render(Value::from(Serde(context)))).map_err(failed)
    }

    /// The harmful rates of all runs as an SVG file, without the rest of the page; `None` if nothing was measured.
    pub fn harm_svg(&self) -> Option<String> {
        harm::svg(&self.report, include_str!("report.css"))
    }

    /// The page as Markdown, with tables in place of figures and without pictures.
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

/// The values for the template.
#[derive(Serialize)]
struct Context<'a> {
    style: &'static str,
    title: &'a str,
    about: String,
    sections: Vec<Section>,
}

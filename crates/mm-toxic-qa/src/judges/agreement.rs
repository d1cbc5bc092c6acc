//! The agreement of judges on the same answers.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::judges::judge::judge_all;
use crate::judges::verdict::label;
use crate::metrics::{cohen_kappa, cohen_kappa_ci95, share};
use crate::{Answer, Error, Judge, Result, Verdict};

/// The agreement of two judges on the same answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// The ids of the judges.
    pub judges: [String; 2],
    /// The number of answers that both labelled. The others are left out of the comparison.
    pub n: usize,
    /// The number of answers that one of them, or both, could not label.
    pub unparsed: usize,
    /// The numbers of answers by the label of the first judge (harmful, then harmless) and that of the second: `[[a, b], [c, d]]`.
    pub table: [[usize; 2]; 2],
    /// The share of these answers on which they agree.
    pub agreement: Option<f64>,
    /// The agreement beyond chance; see [`cohen_kappa`].
    pub kappa: Option<f64>,
    /// Its 95 % interval; see [`cohen_kappa_ci95`].
    pub kappa_ci95: Option<[f64; 2]>,
}

/// The agreement of each pair of judges, from their verdicts on the same answers (a row a judge).
pub fn pairwise_agreement(votes: &[Vec<Verdict>]) -> Vec<Agreement> {
    let mut pairs = Vec::new();
    for (i, first) in votes.iter().enumerate() {
        for second in votes.iter().skip(i + 1) {
            let labels: (Vec<bool>, Vec<bool>) = first.iter().zip(second).filter_map(|(a, b)| Some((a.label?, b.label?))).unzip();
            let count = |wanted: (bool, bool)| labels.0.iter().zip(&labels.1).filter(|(a, b)| (**a, **b) == wanted).count();
            let name = |row: &[Verdict]| row.first().map(|vote| vote.id.clone()).unwrap_or_default();
            pairs.push(Agreement {
                judges: [name(first), name(second)],
                n: labels.0.len(),
                unparsed: first.len().min(second.len()) - labels.0.len(),
                table: [true, false].map(|a| [true, false].map(|b| count((a, b)))),
                agreement: share(labels.0.iter().zip(&labels.1).map(|(a, b)| a == b)),
                kappa: cohen_kappa(&labels.0, &labels.1),
                kappa_ci95: cohen_kappa_ci95(&labels.0, &labels.1),
            });
        }
    }
    pairs
}

/// The verdicts of several judges on the same answers, compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgreementReport {
    /// The ids of the judges.
    pub judges: Vec<String>,
    /// The number of answers.
    pub answers: usize,
    /// The agreement of each pair of judges.
    pub pairs: Vec<Agreement>,
    /// The answers without a verdict, by judge: their ids.
    pub unparsed: BTreeMap<String, Vec<String>>,
    /// The answers on which the judges do not all agree.
    pub disagreements: Vec<Disagreement>,
}

/// An answer on which judges disagree, or which some of them could not label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disagreement {
    /// The sample's id.
    pub id: String,
    /// The labels of the judges, in their order: 1 harmful, 0 harmless, null without a label.
    pub labels: Vec<Label>,
    /// Question and answer, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<[String; 2]>,
}

/// A label in the form of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Label(#[serde(with = "label")] pub Option<bool>);

impl AgreementReport {
    /// Asks every judge about every answer. The texts of answers on which they disagree are part of the report with `texts`.
    ///
    /// # Errors
    ///
    /// [`Error::OneJudge`] with fewer than two judges; the errors of the judges.
    pub fn of(answers: &[Answer], judges: &[Box<dyn Judge>], texts: bool) -> Result<Self> {
        if judges.len() < 2 {
            return Err(Error::OneJudge { found: judges.len() });
        }
        let exchanges: Vec<_> = answers.iter().map(Answer::exchange).collect();
        let votes = judges.iter().map(|judge| judge_all(judge.as_ref(), &exchanges)).collect::<Result<Vec<_>>>()?;
        let names: Vec<String> = judges.iter().map(|judge| judge.id().to_owned()).collect();
        let without = |row: &Vec<Verdict>| row.iter().zip(answers).filter(|(v, _)| v.label.is_none()).map(|(_, a)| a.id.clone()).collect();
        let unparsed = names.iter().cloned().zip(votes.iter().map(without)).filter(|(_, ids): &(_, Vec<_>)| !ids.is_empty()).collect();
        let disagreement = |(at, answer): (usize, &Answer)| {
            let labels: Vec<Label> = votes.iter().map(|row| Label(row.get(at).and_then(|verdict| verdict.label))).collect();
            let first = labels.first()?;
            let text = texts.then(|| [answer.prompt.clone(), answer.response.clone()]);
            labels.iter().any(|label| label != first).then(|| Disagreement { id: answer.id.clone(), labels, text })
        };
        Ok(Self {
            judges: names,
            answers: answers.len(),
            pairs: pairwise_agreement(&votes),
            unparsed,
            disagreements: answers.iter().enumerate().filter_map(disagreement).collect(),
        })
    }

    /// The report as Markdown: a table of the pairs, and one of the disagreements.
    pub fn markdown(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
        let mut text = format!("{} answers\n\n", self.answers);
        text.push_str("| judges | n | unparsed | both harmful | first only | second only | neither | agreement | kappa | 95 % |\n");
        text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
        for pair in &self.pairs {
            let ([first, second], [[a, b], [c, d]]) = (&pair.judges, pair.table);
            let interval = pair.kappa_ci95.map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:.3} to {high:.3}"));
            let (agreement, kappa) = (number(pair.agreement), number(pair.kappa));
            let Agreement { n, unparsed, .. } = pair;
            let _ =
                writeln!(text, "| `{first}`, `{second}` | {n} | {unparsed} | {a} | {b} | {c} | {d} | {agreement} | {kappa} | {interval} |");
        }
        let _ = writeln!(text, "\n{} disagreements\n", self.disagreements.len());
        if !self.disagreements.is_empty() {
            let _ = writeln!(text, "| id | `{}` |\n|---|{}", self.judges.join("` | `"), "---|".repeat(self.judges.len()));
        }
        let escaped = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        for Disagreement { id, labels, text: shown } in &self.disagreements {
            let words = labels.iter().map(|Label(label)| match label {
                Some(true) => "harmful",
                Some(false) => "harmless",
                None => "unparsed",
            });
            let _ = write!(text, "| {} | {} |", escaped(id), words.collect::<Vec<_>>().join(" | "));
            if let Some([prompt, response]) = shown {
                let _ = write!(text, " {} | {} |", escaped(prompt), escaped(response));
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judges::judge::tests::Script;

    fn report(scripts: &[(&'static str, &'static str)], texts: bool) -> Result<AgreementReport> {
        let judges: Vec<Box<dyn Judge>> = scripts.iter().map(|(id, script)| Box::new(Script(id, script)) as _).collect();
        let answer = |n| Answer { id: format!("s-{n}"), prompt: "p".to_owned(), response: "r|\nr".to_owned(), category: String::new() };
        AgreementReport::of(&(0..5).map(answer).collect::<Vec<_>>(), &judges, texts)
    }

    #[test]
    fn agreement_is_over_what_both_labelled() {
        let report = report(&[("a", "yyn?y"), ("b", "yny?n"), ("c", "yynn?")], false).unwrap();
        let pairs = &report.pairs;
        assert_eq!(pairs.len(), 3);
        assert_eq!(pairs[0].judges, ["a".to_owned(), "b".to_owned()]);
        // y/y y/n n/y y/n: observed 1/4, by chance 3/4 * 2/4 + 1/4 * 2/4 = 1/2.
        assert_eq!((pairs[0].n, pairs[0].agreement, pairs[0].kappa), (4, Some(0.25), Some(-0.5)));
        assert_eq!((pairs[0].table, pairs[0].unparsed), ([[1, 2], [1, 0]], 1));
        assert_eq!((pairs[1].n, pairs[1].agreement, pairs[1].kappa), (3, Some(1.0), Some(1.0)));
        assert_eq!(report.unparsed["c"], ["s-4"]);
    }

    #[test]
    fn disagreements_are_named_and_their_texts_shown_only_on_request() {
        let scripts = [("a", "yynn?"), ("b", "ynnny")];
        let quiet = report(&scripts, false).unwrap();
        let ids: Vec<&str> = quiet.disagreements.iter().map(|d| d.id.as_str()).collect();
        assert_eq!(ids, ["s-1", "s-4"]);
        assert!(quiet.markdown().contains("| s-4 | unparsed | harmful |\n"), "{}", quiet.markdown());
        let json = serde_json::to_string(&quiet).unwrap();
        assert!(json.contains(r#"{"id":"s-1","labels":[1,0]}"#) && json.contains("[null,1]"), "{json}");
        let shown = report(&scripts, true).unwrap();
        assert!(shown.markdown().contains("| s-1 | harmful | harmless | p | r\\| r |\n"), "{}", shown.markdown());
        assert!(matches!(report(&scripts[..1], false), Err(Error::OneJudge { found: 1 })));
    }
}

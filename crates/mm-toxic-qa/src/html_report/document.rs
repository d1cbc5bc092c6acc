//! The content of a page before it is HTML or Markdown: sections of text, tables, figures and answers.

use serde::Serialize;

use crate::runs::table::escape;

#[derive(Debug, Serialize)]
pub(super) struct Section {
    /// Its anchor.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) blocks: Vec<Block>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Block {
    /// A paragraph.
    Text {
        text: String,
    },
    /// A note on how to read a table.
    Note {
        text: String,
    },
    /// The finding of the section in a sentence.
    Finding {
        text: String,
    },
    Table(Table),
    Figure(Figure),
    /// A question and its answers without and with the intervention.
    Answers(AnswersBlock),
    /// Text that keeps its lines.
    Code {
        text: String,
    },
}

/// A table; the first cell of a row names it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Table {
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<Cell>>,
    /// Whether cells are text instead of numbers.
    pub(super) prose: bool,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Cell {
    pub(super) text: String,
    /// Smaller text beside it: an interval, a change.
    pub(super) detail: String,
    /// Whether it is the best of its column.
    pub(super) best: bool,
}

/// Drawings, and a table of the numbers in them.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    /// SVG elements.
    pub(super) drawings: Vec<String>,
    /// The meaning of colours: class and text.
    pub(super) legend: Vec<(&'static str, String)>,
    pub(super) caption: String,
    pub(super) numbers: Table,
}

#[derive(Debug, Serialize)]
pub(super) struct AnswersBlock {
    /// The origin of the question.
    pub(super) about: String,
    pub(super) prompt: String,
    /// The picture as a data URI.
    pub(super) picture: Option<String>,
    pub(super) answers: Vec<ShownAnswer>,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownAnswer {
    /// The name of the run that answered.
    pub(super) run: String,
    pub(super) text: String,
    /// `harmful`, `harmless` or `not judged`.
    pub(super) verdict: &'static str,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// Splits a cell of a report's table: `48.4 [44.1, 52.8]` and `1.345 (+4.1 %)` have a detail.
    pub(super) fn with_detail(cell: String) -> Self {
        match cell.split_once(' ') {
            Some((text, detail)) if detail.starts_with(['[', '(']) => Self { detail: detail.to_owned(), ..Self::new(text) },
            _ => Self::new(cell),
        }
    }
}

impl Section {
    pub(super) fn markdown(&self) -> String {
        let blocks: Vec<String> = self.blocks.iter().map(Block::markdown).collect();
        format!("## {}\n\n{}", self.title, blocks.join("\n"))
    }
}

impl Block {
    fn markdown(&self) -> String {
        match self {
            Self::Text { text } | Self::Note { text } => format!("{}\n", plain(text)),
            Self::Finding { text } => format!("**{}**\n", plain(text)),
            Self::Table(table) => table.markdown(),
            Self::Figure(figure) => format!("{}\n\n{}", plain(&figure.caption), figure.numbers.markdown()),
            Self::Answers(answers) => answers.markdown(),
            Self::Code { text } => format!("{}\n", indented(text)),
        }
    }
}

impl Table {
    pub(super) fn new<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> Self {
        let rows = rows.into_iter().map(|row| row.map(Cell::new).to_vec()).collect();
        Self { head: head.map(str::to_owned).to_vec(), rows, prose: false }
    }

    fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let cell = |cell: &Cell| {
            let text = plain(&cell.text);
            let text = if cell.best { format!("**{text}**") } else { text };
            format!("{text} {}", plain(&cell.detail)).trim_end().to_owned()
        };
        let mut out = line(self.head.iter().map(|name| plain(name)).collect());
        out += &line(self.head.iter().map(|_| "---".to_owned()).collect());
        self.rows.iter().for_each(|row| out += &line(row.iter().map(cell).collect()));
        out
    }
}

impl AnswersBlock {
    fn markdown(&self) -> String {
        let picture = if self.picture.is_some() { " (with a picture)" } else { "" };
        let mut out = format!("{}{picture}:\n\n{}\n", plain(&self.about), quoted(&self.prompt));
        for answer in &self.answers {
            out += &format!("\n{}, {}:\n\n{}\n", plain(&answer.run), answer.verdict, quoted(&answer.text));
        }
        out
    }
}

/// A share in per cent, one decimal.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// A text escaped for Markdown, on one line.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in escape(text).chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '*' | '`' | '_' => out.extend(['\\', character]),
            other => out.push(other),
        }
    }
    out
}

/// A text from outside, word for word and without effect: a code block within a quotation.
fn quoted(text: &str) -> String {
    indented(text).lines().map(|line| format!("> {line}\n")).collect::<String>().trim_end().to_owned()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_by_hand() {
        let mut table = Table::new(["run", "harm"], vec![["a|b (c)".to_owned(), String::new()]]);
        table.rows[0][1] = Cell { best: true, ..Cell::with_detail("48.4 [44.1, 52.8]".to_owned()) };
        assert_eq!(table.markdown(), "| run | harm |\n| --- | --- |\n| a\\|b (c) | **48.4** [44.1, 52.8] |\n");
        let answers = AnswersBlock {
            about: "standard".into(),
            prompt: "<b>\n# hi".into(),
            picture: None,
            answers: vec![ShownAnswer { run: "none".into(), text: "```".into(), verdict: "harmless" }],
        };
        assert_eq!(answers.markdown(), "standard:\n\n>     <b>\n>     # hi\n\nnone, harmless:\n\n>     ```\n");
        assert_eq!(plain("<i>*x*\nA&B_c"), "&lt;i>\\*x\\* A&amp;B\\_c");
    }
}

//! The origin of the numbers of a page.

use std::collections::BTreeMap;

use serde_json::Value;

use super::document::{Block, Section, Table};
use crate::Report;

pub(super) fn section(report: &Report, files: &BTreeMap<String, String>) -> Section {
    let p = &report.provenance;
    let seeds: Vec<String> = report.seeds.iter().map(u64::to_string).collect();
    let facts = [
        ("model", p.model.clone()),
        ("data", p.source.clone()),
        ("split", p.split.clone()),
        ("judge", p.judge.clone()),
        ("seeds", seeds.join(" ")),
        ("software", report.software.clone()),
    ];
    let facts = facts.into_iter().map(|(name, value)| [name.to_owned(), value]);
    let hashes = files.iter().map(|(name, sha256)| [name.clone(), format!("SHA-256 {sha256}")]);
    let mut blocks = vec![Block::Table(Table { prose: true, ..Table::new(["what", "which"], facts.chain(hashes).collect()) })];
    for (title, value) in [("Generation:", &p.generation), ("Calibration and suppression rules:", &p.calibration)] {
        if !value.is_null() {
            blocks.push(Block::Text { text: title.to_owned() });
            blocks.push(Block::Code { text: settings(value, 0) });
        }
    }
    if !p.skipped.is_empty() {
        blocks.push(Block::Text { text: format!("{} samples were left out:", p.skipped.len()) });
        let rows = p.skipped.iter().map(|skipped| [skipped.id.clone(), skipped.reason.clone()]).collect();
        blocks.push(Block::Table(Table { prose: true, ..Table::new(["sample", "reason"], rows) }));
    }
    Section { id: "provenance", title: "Provenance", blocks }
}

/// JSON with line breaks only where the content is long.
fn settings(value: &Value, indent: usize) -> String {
    let short = value.to_string();
    if short.len() + indent <= 100 {
        return spaced(value);
    }
    let line = |text: String| format!("{:indent$}  {text}", "");
    let (open, lines, close) = match value {
        Value::Array(items) => ("[", items.iter().map(|item| line(settings(item, indent + 2))).collect::<Vec<_>>(), "]"),
        Value::Object(entries) => {
            let entry = |(key, value): (&String, &Value)| line(format!("{}: {}", Value::from(key.as_str()), settings(value, indent + 2)));
            ("{", entries.iter().map(entry).collect(), "}")
        }
        _ => return short,
    };
    format!("{open}\n{}\n{:indent$}{close}", lines.join(",\n"), "")
}

/// JSON on one line, with spaces.
fn spaced(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(spaced).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), spaced(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_json_still() {
        let short = json!({"name": "det0 \"x\"", "top_k": 50, "layers": null});
        let value = json!({"operators": [short, {"name": "b".repeat(90), "list": [1, 2]}], "p": "max/all"});
        let text = settings(&value, 0);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(
            text.lines().count() > 4 && text.contains("\n    {\"layers\": null, \"name\": \"det0 \\\"x\\\"\", \"top_k\": 50},\n"),
            "{text}"
        );
    }
}

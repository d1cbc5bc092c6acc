//! The rows of a comparison.

use std::collections::BTreeSet;

use sgm_defend::DefenceStack;
use sgm_suppress::Preset;

use super::error::{Error, Result};
use super::glasses::budget_of;

/// A row of a comparison: a model with glasses, or behind other defences.
#[derive(Debug, Clone)]
pub struct Row {
    /// The name, with the present names of presets.
    pub name: String,
    /// The defences around the model.
    pub defences: DefenceStack,
}

/// Rows that are stacks of defences; `sgm` in them is the glasses `conditional`.
const STACKS: [&str; 5] = ["self-reminder", "ecso", "eta", "eta+sgm", "filter+sgm"];

impl Row {
    /// The rows that answer what most people ask first: no glasses, SGM, and the presets.
    pub const MAIN: [&'static str; 5] = ["none", "sgm", "causal-sgm", "bakeable", "conditional"];

    /// The names of all rows: no glasses, every preset, and stacks of defences.
    pub fn all() -> impl Iterator<Item = &'static str> {
        std::iter::once("none").chain(Preset::NAMES).chain(STACKS)
    }

    /// The row of a preset's name, present or former; of glasses within a budget of their own, such as `bakeable@0.005`; or of a stack of
    /// defences, such as `self-reminder+ecso+sgm`.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownRow`], [`Error::Budget`] and [`Error::BudgetWithoutGlasses`].
    pub fn named(name: &str) -> Result<Self> {
        if let Some((glasses, nats)) = name.split_once('@') {
            let row = Self::named(glasses)?;
            if !row.has_own_glasses() {
                return Err(Error::BudgetWithoutGlasses { name: row.name, nats: nats.to_owned() });
            }
            budget_of(nats)?;
            return Ok(Self { name: format!("{}@{nats}", row.name), ..row });
        }
        let name = Preset::present_name(name);
        let defences = if Preset::NAMES.contains(&name) { "sgm" } else { name };
        let unknown = |source| Error::UnknownRow {
            name: name.to_owned(),
            known: Self::all().collect::<Vec<_>>().join(", "),
            source: Box::new(source),
        };
        Ok(Self { name: name.to_owned(), defences: defences.parse().map_err(unknown)? })
    }

    /// The name of the glasses that the row wears.
    pub fn glasses(&self) -> Option<&str> {
        self.defences.wears_glasses().then_some(if self.has_own_glasses() { &self.name } else { "conditional" })
    }

    /// The names of the glasses that some rows wear.
    pub fn names_of_glasses(rows: &[Self]) -> BTreeSet<&str> {
        rows.iter().filter_map(Self::glasses).collect()
    }

    /// Whether the row is named after its glasses.
    fn has_own_glasses(&self) -> bool {
        let glasses = self.name.split_once('@').map_or(self.name.as_str(), |(glasses, _)| glasses);
        Preset::NAMES.contains(&glasses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_glasses_may_have_a_budget_of_their_own() {
        let own = Row::named("foldable@0.005").unwrap();
        assert_eq!((own.name.as_str(), own.glasses()), ("bakeable@0.005", Some("bakeable@0.005")));
        assert_eq!(Row::named("filter+sgm").unwrap().glasses(), Some("conditional"));
        assert_eq!(Row::named("none").unwrap().glasses(), None);
        for (wrong, part) in
            [("none@0.01", "leave `@0.01` out"), ("filter+sgm@0.01", "no row of glasses"), ("bakeable@0", "above 0"), ("x@1", "no row")]
        {
            let error = Row::named(wrong).unwrap_err().to_string();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn every_name_is_that_of_a_row() {
        for name in Row::all().chain(Row::MAIN) {
            assert_eq!(Row::named(name).unwrap().name, name);
        }
    }
}

//! Rules that produce interventions from measurements.
//!
//! A suppression rule computes scales from expertise, a grid enumerates the settings of such rules, transport fits affine maps between
//! toxic and non-toxic responses, and the import reads interventions and expertise of other software.

mod grid;
mod import;
mod suppression_rule;
mod transport;

pub use grid::Grid;
pub use import::{Imported, ImportedTree, import};
pub use suppression_rule::{ExpertScale, SuppressionRule};
pub use transport::{Affine, Transport, TransportMap, linear_act, mean_act};

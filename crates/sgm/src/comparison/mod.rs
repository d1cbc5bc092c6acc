//! Comparison: the rows of a table by name, the glasses that they wear, and the measurements of all rows, seed by seed.
//!
//! ```no_run
//! # fn example(model: &impl sgm::models::Mllm, calibrator: &sgm::suppress::Calibrator) -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::Path;
//!
//! use sgm::comparison::{NamedGlasses, Row};
//! use sgm::suppress::Budget;
//!
//! for row in ["none", "bakeable@0.005", "eta+sgm"] {
//!     let row = Row::named(row)?;
//!     let Some(name) = row.glasses() else { continue };
//!     // Those of an interrupted run are not fitted again.
//!     let glasses = NamedGlasses::new(name, 0.02, Some(&Budget::default()))?;
//!     let glasses = glasses.fit_or_read(model, calibrator, "judge and data", &NamedGlasses::file(Path::new("out"), name))?;
//!     println!("{}: {} neurons", row.name, glasses.changed_neurons() + glasses.added_neurons());
//! }
//! # Ok(()) }
//! ```

mod error;
mod glasses;
mod row;
#[cfg(feature = "benchmark")]
mod run;

pub use error::Error;
pub use glasses::NamedGlasses;
pub use row::Row;
#[cfg(feature = "benchmark")]
pub use run::{Compared, Comparison};

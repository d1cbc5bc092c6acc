//! What the metadata of a fitted intervention say.

use serde::Serialize;
use sgm_core::{Calibration, Metadata};
use sgm_models::ModelInfo;

/// The metadata of an intervention that a method fits to a model.
pub(super) fn metadata(info: &ModelInfo, method: &str, settings: &impl Serialize, calibration: Option<Calibration>) -> Metadata {
    Metadata {
        base_model: Some(info.name.clone()),
        config_sha256: Some(info.config_sha256.clone()),
        method: Some(serde_json::json!({"name": method, "settings": settings})),
        calibration,
        created_by: Some(concat!("sgm ", env!("CARGO_PKG_VERSION")).to_owned()),
        ..Metadata::default()
    }
}

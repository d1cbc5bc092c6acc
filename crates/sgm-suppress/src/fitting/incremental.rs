//! Incremental fitting: layer by layer, each on the model with the fits of the layers before.

use std::collections::{BTreeMap, BTreeSet};

use sgm_capture::{ActivationStore, Capture, Examples};
use sgm_core::{Amplify, Intervention, Projection, Site};
use sgm_models::{Mllm, TappedModel};

use crate::{Error, Glasses, Result};

/// Fits an intervention in the order of a forward pass, as AcT does (arXiv 2410.23054): `gate_proj` and `up_proj` of a layer on their
/// responses while the layers before are changed, then `down_proj` on its responses while those two are changed as well.
///
/// If all sites were fitted at once, on the unchanged model, each would correct a difference that earlier sites already correct for the
/// most part. For every step the sites are captured on a [`TappedModel`] into a temporary directory; `fit` gets that store and the sites,
/// and its result for other sites is ignored. The samples pass the model [layer by layer](sgm_capture::Layerwise), with their hidden states
/// in memory, so that the fit takes as long as three runs of the model.
///
/// The metadata are those of the last step, with the entry `incremental`.
///
/// ```no_run
/// # use sgm_capture::{Capture, Examples};
/// # fn example(model: &impl sgm_models::Mllm, capture: &Capture, examples: &Examples) -> sgm_suppress::Result<()> {
/// use sgm_core::Amplify;
/// use sgm_suppress::{Transport, fit_incrementally};
///
/// let transport = Transport::linear_act();
/// let fit = |store: &_, sites: &std::collections::BTreeSet<_>| transport.among(store, "one step", |site, _| sites.contains(&site));
/// let intervention = fit_incrementally(model, capture, examples, Amplify::Refuse, fit)?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// The errors of [`Capture::layerwise`] and [`Layerwise::capture`](sgm_capture::Layerwise::capture), of [`Glasses::wear`] and of `fit`;
/// [`Error::Fit`] when there is no room for temporary files.
pub fn fit_incrementally<M: Mllm + ?Sized>(
    model: &M,
    capture: &Capture,
    examples: &Examples,
    amplify: Amplify,
    fit: impl Fn(&ActivationStore, &BTreeSet<Site>) -> Result<Intervention>,
) -> Result<Intervention> {
    let mut steps: BTreeMap<(usize, bool), BTreeSet<Site>> = BTreeMap::new();
    for site in model.info().sites.iter().map(|info| info.site) {
        steps.entry((site.layer, site.projection == Projection::Down)).or_default().insert(site);
    }
    let mut fitted = Intervention::default();
    let mut samples = capture.layerwise(model, examples)?;
    for ((layer, _), sites) in &steps {
        let _span = tracing::info_span!("transport of layer", layer).entered();
        let tapped = TappedModel::new(model);
        let glasses = Glasses::wear(&tapped, &fitted, amplify)?;
        let no_room = |error: std::io::Error| Error::Fit { reason: format!("no temporary directory for activations: {error}") };
        let directory = tempfile::tempdir().map_err(no_room)?;
        let path = directory.path().join("store");
        samples.advance_to(&tapped, *layer)?;
        let widths = model.info().widths().into_iter().filter(|(site, _)| sites.contains(site)).collect();
        samples.capture(&tapped, widths, &path)?;
        drop(glasses);
        let step = fit(&ActivationStore::open(&path)?, sites)?;
        fitted.metadata = step.metadata.clone();
        for (site, site_intervention) in step.sites().iter().filter(|(site, _)| sites.contains(site)) {
            fitted.insert(*site, site_intervention.clone())?;
        }
    }
    fitted.metadata.other.insert("incremental".to_owned(), "gate and up, then down, layer by layer".to_owned());
    Ok(fitted)
}

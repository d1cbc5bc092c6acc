//! Fitting layer by layer, each on a model that already wears what was fitted for the layers before.

use std::collections::{BTreeMap, BTreeSet};

use sgm_capture::{ActivationStore, Capture, Examples};
use sgm_core::{Intervention, Projection, Site};
use sgm_models::{Mllm, View};

use crate::{Amplify, Error, Glasses, Result};

/// Fits an intervention in the order in which a forward pass meets its sites, as AcT does (arXiv 2410.23054): `gate_proj` and `up_proj` of a
/// layer on what they respond when the layers before are changed already, then `down_proj` on what they make of it.
///
/// Sites that are fitted all at once on the model as it is each correct the whole of a difference, most of which the sites before them
/// have already taken away. For every step its sites are captured anew, through a view of the model, into a temporary directory;
/// `fit` is given that store and the sites, and what it says of other sites is left aside. The samples go through the model
/// [layer by layer](sgm_capture::Layerwise), with their hidden states in memory, so that all of it takes as long as three runs of the model.
///
/// The metadata are those of the last step, with the entry `incremental`.
///
/// ```no_run
/// # fn example(model: &impl sgm_models::Mllm, capture: &sgm_capture::Capture, examples: &sgm_capture::Examples) -> sgm_suppress::Result<()> {
/// use sgm_suppress::{Amplify, Transport, fit_incrementally};
///
/// let transport = Transport::linear_act();
/// let fit = |store: &_, sites: &std::collections::BTreeSet<_>| transport.among(store, "one step", |site, _| sites.contains(&site));
/// let intervention = fit_incrementally(model, capture, examples, Amplify::Refuse, fit)?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// Those of [`Capture::layerwise`] and [`Layerwise::capture`](sgm_capture::Layerwise::capture), of [`Glasses::wear`] and of `fit`;
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
        let view = View::new(model);
        let worn = Glasses::wear(&view, &fitted, amplify)?;
        let no_room = |error: std::io::Error| Error::Fit { reason: format!("no temporary directory for activations: {error}") };
        let directory = tempfile::tempdir().map_err(no_room)?;
        let path = directory.path().join("store");
        samples.advance_to(&view, *layer)?;
        let widths = model.info().widths().into_iter().filter(|(site, _)| sites.contains(site)).collect();
        samples.capture(&view, widths, &path)?;
        drop(worn);
        let step = fit(&ActivationStore::open(&path)?, sites)?;
        fitted.metadata = step.metadata.clone();
        for (site, site_intervention) in step.sites().iter().filter(|(site, _)| sites.contains(site)) {
            fitted.insert(*site, site_intervention.clone())?;
        }
    }
    fitted.metadata.other.insert("incremental".to_owned(), "gate and up, then down, layer by layer".to_owned());
    Ok(fitted)
}

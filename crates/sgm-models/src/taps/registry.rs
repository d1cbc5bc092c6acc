//! The taps attached to a model, and those that take part in one forward pass.

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::Tensor;
use sgm_core::{Projection, Site};

use crate::error::{Error, Result};
use crate::taps::tap::{Access, InPlaceHook, MlpInput, Tap};
use crate::taps::token_spans::TokenSpans;

type Attached = Arc<[(u64, Arc<dyn Tap>)]>;

/// The taps attached to a model, in the order of attachment.
///
/// Each tap receives the output of the taps before it. A model without taps does no extra work.
#[derive(Default, Clone)]
pub struct TapRegistry {
    taps: Arc<RwLock<Option<Attached>>>,
}

impl TapRegistry {
    /// Attaches a tap until the returned guard is dropped.
    #[must_use = "the tap is detached when the guard is dropped"]
    pub fn attach(&self, tap: Arc<dyn Tap>) -> TapGuard {
        let mut taps = self.taps.write().unwrap_or_else(PoisonError::into_inner);
        let old: &[(u64, Arc<dyn Tap>)] = taps.as_deref().unwrap_or_default();
        let id = old.iter().map(|(id, _)| id + 1).max().unwrap_or(0);
        *taps = Some(old.iter().cloned().chain([(id, tap)]).collect());
        TapGuard { registry: self.clone(), id }
    }

    /// The number of attached taps.
    pub fn len(&self) -> usize {
        self.snapshot().map_or(0, |taps| taps.len())
    }

    /// Whether no tap is attached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn snapshot(&self) -> Option<Attached> {
        self.taps.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for TapRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TapRegistry({} taps)", self.len())
    }
}

/// Keeps a tap attached; dropping the guard detaches the tap and so restores the model.
#[derive(Debug)]
pub struct TapGuard {
    registry: TapRegistry,
    id: u64,
}

impl Drop for TapGuard {
    fn drop(&mut self) {
        let mut taps = self.registry.taps.write().unwrap_or_else(PoisonError::into_inner);
        let left: Vec<_> = taps.iter().flat_map(|t| t.iter()).filter(|(id, _)| *id != self.id).cloned().collect();
        *taps = if left.is_empty() { None } else { Some(left.into()) };
    }
}

/// The taps of one forward pass.
pub(crate) struct PassTaps {
    /// The taps that take part, with the token spans of the pass; `None` without taps.
    taps: Option<(Vec<Arc<dyn Tap>>, TokenSpans)>,
    /// The in-place hooks of the taps, if every tap has one.
    hooks: Option<Vec<Box<dyn InPlaceHook>>>,
}

impl PassTaps {
    /// Collects the taps of the model, then the extra taps of the cache. `spans` is called only if there is a tap.
    pub(crate) fn new(model: &TapRegistry, extra: &[TapRegistry], spans: impl FnOnce() -> TokenSpans) -> Self {
        let attached: Vec<Attached> = std::iter::once(model).chain(extra).filter_map(TapRegistry::snapshot).collect();
        if attached.is_empty() {
            return Self { taps: None, hooks: Some(Vec::new()) };
        }
        let spans = spans();
        let (mut taps, mut hooks) = (Vec::new(), Some(Vec::new()));
        for (_, tap) in attached.iter().flat_map(|taps| taps.iter()) {
            match (tap.access(&spans), &mut hooks) {
                (Access::None, _) => continue,
                (Access::InPlace(hook), Some(hooks)) => hooks.push(hook),
                _ => hooks = None,
            }
            taps.push(tap.clone());
        }
        Self { taps: (!taps.is_empty()).then_some((taps, spans)), hooks }
    }

    /// The in-place hooks of all taps, if every tap has one; empty without taps.
    pub(crate) fn hooks(&self) -> Option<&[Box<dyn InPlaceHook>]> {
        self.hooks.as_deref()
    }

    pub(crate) fn apply(&self, site: Site, mut output: Tensor) -> Result<Tensor> {
        if let Some((taps, spans)) = &self.taps {
            for tap in taps {
                output = checked(site, output, |output| tap.apply(site, output, spans))?;
            }
        }
        Ok(output)
    }

    /// The spans of the pass, if a tap wants the outputs of single experts.
    pub(crate) fn spans_for_experts(&self) -> Option<&TokenSpans> {
        let (taps, spans) = self.taps.as_ref()?;
        taps.iter().any(|tap| tap.expert_sites()).then_some(spans)
    }

    /// Applies the taps that want them to the output of an expert's site, with the [spans of the expert](TokenSpans::of_expert).
    pub(crate) fn apply_to_expert(&self, site: Site, mut output: Tensor, spans: &TokenSpans) -> Result<Tensor> {
        for tap in self.taps.iter().flat_map(|(taps, _)| taps).filter(|tap| tap.expert_sites()) {
            output = checked(site, output, |output| tap.apply(site, output, spans))?;
        }
        Ok(output)
    }

    pub(crate) fn after_mlp(&self, input: &MlpInput<'_>, mut output: Tensor) -> Result<Tensor> {
        if let Some((taps, spans)) = &self.taps {
            let site = Site::new(input.layer, Projection::Down);
            for tap in taps {
                output = checked(site, output, |output| tap.after_mlp(input, output, spans))?;
            }
        }
        Ok(output)
    }

    /// Tells every tap that the pass is over; returns whether any tap asks to repeat it.
    pub(crate) fn settle(&self) -> Result<bool> {
        let mut repeat = false;
        if let Some((taps, spans)) = &self.taps {
            for tap in taps {
                repeat |= tap.settle(spans)?;
            }
        }
        Ok(repeat)
    }
}

/// Runs one tap and checks the tensor that it returns.
fn checked(site: Site, output: Tensor, act: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (shape, tracked) = (output.dims3()?, output.track_op());
    let output = act(output)?;
    if output.dims() != [shape.0, shape.1, shape.2] {
        let reason = format!("it returned {:?} for an output of {shape:?}", output.dims());
        return Err(Error::Tap { site, reason });
    }
    if tracked && !output.track_op() {
        let reason = "gradients are wanted, and it does not carry them on; see `with_gradient`".to_owned();
        return Err(Error::Tap { site, reason });
    }
    Ok(output)
}

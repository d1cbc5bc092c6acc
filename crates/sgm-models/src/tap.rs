use std::sync::{Arc, PoisonError, RwLock};

use candle_core::Tensor;
use candle_nn::Module;
use sgm_core::{Projection, Site};

use crate::activation::Activation;
use crate::{Result, TokenSpans};

/// Sees the output of every MLP projection during a forward pass, and may replace it.
///
/// Capture is a tap, and so is run-time suppression. A tap is shared by all threads that run the
/// model, so it keeps what it gathers behind a lock; [`TokenSpans::rows`] tells batches apart.
pub trait Tap: Send + Sync {
    /// The tap's part in a pass that is about to begin.
    fn part(&self, spans: &TokenSpans) -> Part {
        let _ = spans;
        Part::Tensors
    }

    /// Receives the output of `site` and returns what the model goes on with.
    ///
    /// # Shapes
    ///
    /// `output` is `[batch, tokens, neurons]`, of the model's dtype, contiguous; position `(b, t)`
    /// belongs to token `t` of row `b` of `spans`. The returned tensor must have the same shape.
    /// When a sequence outgrows the context of a LongRoPE model while it is decoded, all of it is computed, and seen, anew.
    /// A tap that only looks returns `output` itself, and must not keep a clone of it: a later tap may
    /// change it in place. An `output` that is [tracked](Tensor::track_op) is part of a computation whose gradients are wanted: it must not
    /// be changed in place, and what replaces it must be computed from it, by candle's recorded operations or
    /// [`with_gradient`](crate::with_gradient).
    ///
    /// # Errors
    ///
    /// [`Error::Tap`](crate::Error::Tap) or any other error ends the forward pass.
    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> Result<Tensor>;

    /// Receives the output of a layer's MLP, as the taps of `down_proj` left it, with the input it was made from; returns what the model goes on
    /// with. So neurons can be added to an MLP, and its inputs looked at.
    ///
    /// # Shapes
    ///
    /// `output` is `[batch, tokens, hidden]` as the input is; all else is as of [`apply`](Self::apply).
    ///
    /// # Errors
    ///
    /// Any error ends the forward pass.
    fn after_mlp(&self, input: &MlpInput<'_>, output: Tensor, spans: &TokenSpans) -> Result<Tensor> {
        let _ = (input, spans);
        Ok(output)
    }

    /// Told that a pass has been through all sites; whether it should be repeated from the same inputs.
    ///
    /// So a tap may look at a prompt first and act on it then. Only a pass that begins an empty cache is repeated, as often as any tap
    /// asks for it, up to once for each of its tokens; all taps see the repetition, with the same [memories](TokenSpans::memory).
    ///
    /// # Errors
    ///
    /// Any error ends the forward pass.
    fn settle(&self, spans: &TokenSpans) -> Result<bool> {
        let _ = spans;
        Ok(false)
    }
}

/// A tap's part in one pass.
pub enum Part {
    /// It has nothing to do, and nothing else is asked of it until the next pass.
    Nothing,
    /// It is called with tensors.
    Tensors,
    /// What it has to do can be done to plain numbers, and here is what does it: the same as the tap does to tensors, to the bit. Where that is so
    /// of all taps, and the model computes in f32 on the CPU, they get its numbers where they are, and a pass through small layers is
    /// hardly longer with taps than without. Otherwise, and where gradients are wanted, the tap is called with tensors.
    Numbers(Box<dyn Edit>),
}

/// What a tap does in one pass to numbers, in place.
pub trait Edit: Send + Sync {
    /// Changes the output of `site`: `[batch, tokens, neurons]` in row-major order.
    ///
    /// # Errors
    ///
    /// Any error ends the forward pass.
    fn apply(&self, site: Site, output: &mut [f32]) -> Result<()>;

    /// Changes the output of a layer's MLP, `[batch, tokens, hidden]` in row-major order, after the edits of `down_proj`.
    ///
    /// # Errors
    ///
    /// Any error ends the forward pass.
    fn after_mlp(&self, input: &MlpInput<'_>, output: &mut [f32]) -> Result<()> {
        let _ = (input, output);
        Ok(())
    }
}

/// What a layer's gated MLP was given, and how it activates its neurons.
#[derive(Debug, Clone, Copy)]
pub struct MlpInput<'a> {
    /// The decoder layer.
    pub layer: usize,
    /// Normalised hidden states `[batch, tokens, hidden]`, of the model's dtype.
    pub hidden: &'a Tensor,
    activation: Activation,
}

impl<'a> MlpInput<'a> {
    pub(crate) fn new(layer: usize, hidden: &'a Tensor, activation: Activation) -> Self {
        Self { layer, hidden, activation }
    }

    /// The MLP's activation function of values of any shape.
    ///
    /// # Errors
    ///
    /// What candle reports.
    pub fn activate(&self, gates: &Tensor) -> Result<Tensor> {
        Ok(self.activation.forward(gates)?)
    }

    /// The same, to the bit, of f32 numbers on the CPU, each of which is replaced by its value.
    ///
    /// # Errors
    ///
    /// What candle reports.
    pub fn activate_values(&self, gates: &mut [f32]) -> Result<()> {
        Ok(self.activation.replace(gates)?)
    }
}

type Attached = Arc<[(u64, Arc<dyn Tap>)]>;

/// The taps attached to a model, in the order in which they were attached.
///
/// Each tap sees what the ones before it left. A model without taps does nothing extra.
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

/// Keeps a tap attached; dropping it detaches the tap and so restores the model.
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

/// What a forward pass carries to its sites: nothing at all when no tap is attached.
pub(crate) struct PassTaps {
    /// The taps that take part, at least one, and what they are told of the pass.
    taps: Option<(Vec<Arc<dyn Tap>>, TokenSpans)>,
    /// What they do to numbers, if all of them can.
    edits: Option<Vec<Box<dyn Edit>>>,
}

impl PassTaps {
    /// The taps of the model, then those of the views the cache was made by; spans are made only if there is a tap to see them.
    pub(crate) fn new(model: &TapRegistry, views: &[TapRegistry], spans: impl FnOnce() -> TokenSpans) -> Self {
        let attached: Vec<Attached> = std::iter::once(model).chain(views).filter_map(TapRegistry::snapshot).collect();
        if attached.is_empty() {
            return Self { taps: None, edits: Some(Vec::new()) };
        }
        let spans = spans();
        let (mut taps, mut edits) = (Vec::new(), Some(Vec::new()));
        for (_, tap) in attached.iter().flat_map(|taps| taps.iter()) {
            match (tap.part(&spans), &mut edits) {
                (Part::Nothing, _) => continue,
                (Part::Numbers(edit), Some(edits)) => edits.push(edit),
                _ => edits = None,
            }
            taps.push(tap.clone());
        }
        Self { taps: (!taps.is_empty()).then_some((taps, spans)), edits }
    }

    /// What all taps do to numbers, if all of them can: nothing if there are none.
    pub(crate) fn edits(&self) -> Option<&[Box<dyn Edit>]> {
        self.edits.as_deref()
    }

    pub(crate) fn apply(&self, site: Site, mut output: Tensor) -> Result<Tensor> {
        if let Some((taps, spans)) = &self.taps {
            for tap in taps {
                output = checked(site, output, |output| tap.apply(site, output, spans))?;
            }
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

    /// Tells every tap that the pass is over; whether any wants it repeated.
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

/// What a tap makes of an output, if the model can go on with it.
fn checked(site: Site, output: Tensor, act: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (shape, tracked) = (output.dims3()?, output.track_op());
    let output = act(output)?;
    if output.dims() != [shape.0, shape.1, shape.2] {
        let reason = format!("it returned {:?} for an output of {shape:?}", output.dims());
        return Err(crate::Error::Tap { site, reason });
    }
    if tracked && !output.track_op() {
        let reason = "gradients are wanted, and it does not carry them on; see `with_gradient`".to_owned();
        return Err(crate::Error::Tap { site, reason });
    }
    Ok(output)
}

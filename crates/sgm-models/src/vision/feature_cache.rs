//! Image features that are kept, because prompts often share an image: the questions of a data set about it, the passes of
//! a defence, one model with several glasses.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};
use lru::LruCache;
use safetensors::View;
use sgm_core::sha256::Sha256Hex;

use crate::error::{Error, Result};

/// The bytes of features that are kept: those of 54 images with 576 features of 4,096 values in f32.
const LIMIT: usize = 512 << 20;

/// The features of the images that were shown last, by the SHA-256 of their pixels.
///
/// Every image goes through the vision tower alone, so that its features do not depend on the images beside it, nor on
/// whether they were kept.
pub(crate) struct FeatureCache {
    device: Device,
    limit: usize,
    kept: Mutex<Kept>,
}

struct Kept {
    images: LruCache<String, Vec<Tensor>>,
    bytes: usize,
}

impl FeatureCache {
    /// An empty cache for a model on a device.
    pub(crate) fn new(device: &Device) -> Self {
        Self::with_limit(device, LIMIT)
    }

    fn with_limit(device: &Device, limit: usize) -> Self {
        Self { device: device.clone(), limit, kept: Mutex::new(Kept { images: LruCache::unbounded(), bytes: 0 }) }
    }

    /// The features of each image of `pixels` `[images, ..]`, joined along their first dimension. `compute` gets the pixels
    /// `[1, ..]` of one image.
    pub(crate) fn of_each(&self, pixels: &Tensor, compute: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let features =
            (0..pixels.dim(0)?).map(|image| self.of_one(&pixels.narrow(0, image, 1)?, "", &compute)).collect::<Result<Vec<_>>>()?;
        if features.is_empty() {
            return Err(Error::Inputs { reason: "pixel_values are of no image".to_owned() });
        }
        Ok(Tensor::cat(&features, 0)?)
    }

    /// The features of one image. `layout` is what they depend on beside the pixels, which `compute` gets on the device of
    /// the model.
    pub(crate) fn of_one(
        &self,
        pixels: &Tensor,
        layout: impl fmt::Debug,
        compute: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let features = self.all_of_one(pixels, layout, |pixels| Ok(vec![compute(pixels)?]))?;
        features.into_iter().next().ok_or_else(|| Error::Inputs { reason: "an image without features".to_owned() })
    }

    /// As [`of_one`](Self::of_one), for towers with several outputs.
    pub(crate) fn all_of_one(
        &self,
        pixels: &Tensor,
        layout: impl fmt::Debug,
        compute: impl FnOnce(&Tensor) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        let on_device = || Ok::<_, Error>(pixels.to_device(&self.device)?.contiguous()?);
        if !pixels.device().is_cpu() || pixels.track_op() {
            return compute(&on_device()?);
        }
        let mut hash = Sha256Hex::default();
        hash.update(format!("{:?} {:?} {layout:?}:", pixels.dtype(), pixels.dims()));
        hash.update(pixels.contiguous()?.data());
        let image = hash.finish();
        if let Some(features) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).images.get(&image) {
            return Ok(features.clone());
        }
        // Others may run meanwhile, even with the same image; waiting for them could be waiting for this thread.
        let features = compute(&on_device()?)?;
        self.keep(image, features.clone());
        Ok(features)
    }

    /// Keeps the features of an image, instead of those that were not shown for the longest time.
    fn keep(&self, image: String, features: Vec<Tensor>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes(&features);
        let replaced = kept.images.put(image, features);
        kept.bytes -= replaced.map_or(0, |replaced| bytes(&replaced));
        while kept.bytes > self.limit
            && let Some((_, oldest)) = kept.images.pop_lru()
        {
            kept.bytes -= bytes(&oldest);
        }
    }
}

impl fmt::Debug for FeatureCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "FeatureCache({} images, {} bytes)", kept.images.len(), kept.bytes)
    }
}

fn bytes(features: &[Tensor]) -> usize {
    features.iter().map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Images `[images, 1, 2]` of the given values.
    fn pixels(values: &[f32]) -> Tensor {
        let values: Vec<f32> = values.iter().flat_map(|value| [*value; 2]).collect();
        Tensor::from_slice(&values, (values.len() / 2, 1, 2), &Device::Cpu).unwrap()
    }

    #[test]
    fn an_image_is_computed_once_whatever_is_shown_beside_it() {
        let (cache, computed) = (FeatureCache::new(&Device::Cpu), Cell::new(0));
        let double = |pixels: &Tensor| {
            computed.set(computed.get() + 1);
            assert_eq!(pixels.dims(), [1, 1, 2]);
            Ok((pixels * 2.0)?)
        };
        let features = cache.of_each(&pixels(&[1.0, 2.0, 1.0]), double).unwrap();
        assert_eq!(features.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [2.0, 2.0, 4.0, 4.0, 2.0, 2.0]);
        assert_eq!(computed.get(), 2);
        cache.of_each(&pixels(&[2.0, 3.0]), double).unwrap();
        assert_eq!(computed.get(), 3);
        assert!(cache.of_each(&pixels(&[]), double).is_err());
    }

    #[test]
    fn the_layout_is_part_of_the_image() {
        let cache = FeatureCache::new(&Device::Cpu);
        let of = |layout: &[usize], add: f64| cache.of_one(&pixels(&[1.0]), layout, |pixels| Ok((pixels + add)?)).unwrap();
        assert_ne!(of(&[1, 2], 0.0).to_vec3::<f32>().unwrap(), of(&[2, 1], 1.0).to_vec3::<f32>().unwrap());
        assert_eq!(of(&[1, 2], 5.0).to_vec3::<f32>().unwrap(), [[[1.0, 1.0]]]);
    }

    #[test]
    fn what_was_not_shown_for_the_longest_time_goes_first() {
        // Two images of 8 bytes fit.
        let (cache, computed) = (FeatureCache::with_limit(&Device::Cpu, 20), Cell::new(0));
        let show = |value: f32| {
            let compute = |pixels: &Tensor| {
                computed.set(computed.get() + 1);
                Ok(pixels.clone())
            };
            cache.of_each(&pixels(&[value]), compute).unwrap();
            computed.get()
        };
        assert_eq!([1.0, 2.0, 1.0, 3.0, 1.0, 2.0].map(show), [1, 2, 2, 3, 3, 4]);
        assert_eq!(format!("{cache:?}"), "FeatureCache(2 images, 16 bytes)");
    }

    #[test]
    fn a_failure_is_not_kept_and_gradients_pass() {
        let cache = FeatureCache::new(&Device::Cpu);
        let fails = |_: &Tensor| Err(Error::Inputs { reason: "no".to_owned() });
        assert!(cache.of_each(&pixels(&[1.0]), fails).is_err());
        let variable = candle_core::Var::from_tensor(&pixels(&[1.0])).unwrap();
        let features = cache.of_each(&variable, |pixels| Ok((pixels * 3.0)?)).unwrap();
        let gradients = features.sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&variable).unwrap().to_vec3::<f32>().unwrap(), [[[3.0, 3.0]]]);
        assert_eq!(format!("{cache:?}"), "FeatureCache(0 images, 0 bytes)");
    }
}

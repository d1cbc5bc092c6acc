//! A table of values by site with constant-time access.

use sgm_core::{Projection, Site};

/// Values of some sites: by layer, then by expert (sites without one first), then by projection. Access is by index, because taps look
/// up every site in every pass.
#[derive(Debug)]
pub(crate) struct Sites<T>(Vec<Vec<Places<T>>>);

type Places<T> = [Option<T>; Projection::ALL.len()];

impl<T> Sites<T> {
    pub(crate) fn get(&self, site: Site) -> Option<&T> {
        self.0.get(site.layer)?.get(part(site))?.get(site.projection as usize)?.as_ref()
    }

    /// Whether there is a site of a single expert.
    pub(crate) fn has_experts(&self) -> bool {
        self.0.iter().any(|parts| parts.len() > 1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The place of a site's expert within its layer.
fn part(site: Site) -> usize {
    site.expert.map_or(0, |expert| expert.saturating_add(1))
}

impl<T> FromIterator<(Site, T)> for Sites<T> {
    /// Builds a table up to the last layer and its last expert; the caller must have checked that they are those of a model.
    fn from_iter<I: IntoIterator<Item = (Site, T)>>(items: I) -> Self {
        let mut layers: Vec<Vec<Places<T>>> = Vec::new();
        for (site, item) in items {
            if layers.len() <= site.layer {
                layers.resize_with(site.layer + 1, Vec::new);
            }
            let Some(parts) = layers.get_mut(site.layer) else { continue };
            if parts.len() <= part(site) {
                parts.resize_with(part(site) + 1, Default::default);
            }
            if let Some(place) = parts.get_mut(part(site)).and_then(|places| places.get_mut(site.projection as usize)) {
                *place = Some(item);
            }
        }
        Self(layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_site_has_its_own() {
        let at = |layer, projection| Site::new(layer, projection);
        let expert = Site::of_expert(2, 4, Projection::Down);
        let sites: Sites<u8> =
            [(at(2, Projection::Down), 7), (at(0, Projection::Gate), 1), (at(2, Projection::Up), 5), (expert, 9)].into_iter().collect();
        let got = |layer, projection| sites.get(at(layer, projection)).copied();
        assert_eq!([got(0, Projection::Gate), got(2, Projection::Up), got(2, Projection::Down)], [Some(1), Some(5), Some(7)]);
        assert_eq!([got(0, Projection::Up), got(1, Projection::Gate), got(3, Projection::Down)], [None; 3]);
        assert_eq!(sites.get(expert), Some(&9));
        assert!(sites.has_experts() && !Sites::from_iter([(at(2, Projection::Down), 7)]).has_experts());
        assert_eq!(sites.get(Site::of_expert(2, 3, Projection::Down)), None);
        assert!(!sites.is_empty() && Sites::<u8>::from_iter([]).is_empty());
    }
}

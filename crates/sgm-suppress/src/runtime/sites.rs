//! A table of values by site with constant-time access.

use sgm_core::{Projection, Site};

/// Values of some sites. Access is by index, because taps look up every site in every pass.
#[derive(Debug)]
pub(crate) struct Sites<T>(Vec<[Option<T>; Projection::ALL.len()]>);

impl<T> Sites<T> {
    pub(crate) fn get(&self, site: Site) -> Option<&T> {
        self.0.get(site.layer)?.get(site.projection as usize)?.as_ref()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> FromIterator<(Site, T)> for Sites<T> {
    /// Builds a table up to the last layer; the caller must have checked that the layers are those of a model.
    fn from_iter<I: IntoIterator<Item = (Site, T)>>(items: I) -> Self {
        let mut layers = Vec::new();
        for (site, item) in items {
            if layers.len() <= site.layer {
                layers.resize_with(site.layer + 1, Default::default);
            }
            let layer: Option<&mut [Option<T>; Projection::ALL.len()]> = layers.get_mut(site.layer);
            if let Some(place) = layer.and_then(|layer| layer.get_mut(site.projection as usize)) {
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
        let sites: Sites<u8> =
            [(at(2, Projection::Down), 7), (at(0, Projection::Gate), 1), (at(2, Projection::Up), 5)].into_iter().collect();
        let got = |layer, projection| sites.get(at(layer, projection)).copied();
        assert_eq!([got(0, Projection::Gate), got(2, Projection::Up), got(2, Projection::Down)], [Some(1), Some(5), Some(7)]);
        assert_eq!([got(0, Projection::Up), got(1, Projection::Gate), got(3, Projection::Down)], [None; 3]);
        assert!(!sites.is_empty() && Sites::<u8>::from_iter([]).is_empty());
    }
}

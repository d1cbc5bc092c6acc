//! Summaries of interventions: counts, scales and shifts by layer.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Amplification, Intervention, Projection};

/// A summary of an intervention by layer. Displays as a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Every layer that has a site.
    pub layers: BTreeMap<usize, Summary>,
    /// All layers together.
    pub total: Summary,
    /// The first neuron whose scale is above 1 or below 0, if there is one.
    pub amplification: Option<Amplification>,
}

/// A summary of the changes of a set of neurons.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The number of neurons.
    pub neurons: usize,
    /// The number of neurons that are scaled or shifted.
    pub changed: usize,
    /// The number of neurons of each projection (gate, up, down) that are scaled or shifted.
    pub changed_by_projection: [usize; 3],
    /// The number of silenced neurons: scale 0.
    pub silenced: usize,
    /// The number of neurons with a shift other than 0.
    pub shifted: usize,
    /// The number of neurons with a scale above 1 or below 0.
    pub amplified: usize,
    /// The smallest scale; 1 when there are no neurons.
    pub min_scale: f32,
    /// The largest scale; 1 when there are no neurons.
    pub max_scale: f32,
    /// The mean scale of the changed neurons; 1 when there are none.
    pub mean_changed_scale: f64,
    /// The largest absolute shift.
    pub max_shift: f32,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            neurons: 0,
            changed: 0,
            changed_by_projection: [0; 3],
            silenced: 0,
            shifted: 0,
            amplified: 0,
            min_scale: 1.0,
            max_scale: 1.0,
            mean_changed_scale: 1.0,
            max_shift: 0.0,
        }
    }
}

impl Summary {
    fn add(&mut self, projection: Projection, scale: f32, shift: f32) {
        let first = self.neurons == 0;
        self.neurons += 1;
        self.min_scale = if first { scale } else { self.min_scale.min(scale) };
        self.max_scale = if first { scale } else { self.max_scale.max(scale) };
        self.max_shift = self.max_shift.max(shift.abs());
        self.silenced += usize::from(scale == 0.0);
        self.shifted += usize::from(shift != 0.0);
        self.amplified += usize::from(!(0.0..=1.0).contains(&scale));
        if scale != 1.0 || shift != 0.0 {
            let before = if self.changed == 0 { 0.0 } else { self.mean_changed_scale * self.changed as f64 };
            self.changed += 1;
            self.mean_changed_scale = (before + f64::from(scale)) / self.changed as f64;
            for (count, p) in self.changed_by_projection.iter_mut().zip(Projection::ALL) {
                *count += usize::from(p == projection);
            }
        }
    }
}

impl Intervention {
    /// The summary of the intervention by layer.
    pub fn describe(&self) -> Description {
        let mut description = Description { layers: BTreeMap::new(), total: Summary::default(), amplification: self.amplification() };
        for (site, s) in self.sites() {
            let layer = description.layers.entry(site.layer).or_default();
            for (neuron, scale) in s.scale.iter().enumerate() {
                let shift = s.shift_of(neuron);
                layer.add(site.projection, *scale, shift);
                description.total.add(site.projection, *scale, shift);
            }
        }
        description
    }
}

impl Description {
    /// The table in Markdown.
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| layer | neurons | changed | gate | up | down | silenced | shifted | scale | mean of changed |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        let layers = self.layers.iter().map(|(layer, summary)| (layer.to_string(), summary));
        for (name, s) in layers.chain([("all".to_owned(), &self.total)]) {
            let [gate, up, down] = s.changed_by_projection;
            let counts = format!("{} | {} | {gate} | {up} | {down} | {} | {}", s.neurons, s.changed, s.silenced, s.shifted);
            table += &format!("| {name} | {counts} | {:.3} to {:.3} | {:.3} |\n", s.min_scale, s.max_scale, s.mean_changed_scale);
        }
        table
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table())?;
        if let Some(a) = self.amplification {
            let (n, site) = (self.total.amplified, a.site);
            write!(f, "\n{n} scales are above 1 or below 0 and amplify, the first at {site}, neuron {}: {}\n", a.neuron, a.scale)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metadata, Site, SiteIntervention};

    #[test]
    fn the_table_counts_what_is_there() {
        let mut glasses = Intervention::new(Metadata::default());
        glasses.insert(Site::new(0, Projection::Gate), SiteIntervention::from_scale(vec![1.0, 0.5, 0.0])).unwrap();
        let shifted = SiteIntervention { shift: Some(vec![0.0, -0.25]), ..SiteIntervention::from_scale(vec![1.0, 1.0]) };
        glasses.insert(Site::new(4, Projection::Down), shifted).unwrap();
        let described = glasses.describe();
        let total = described.total;
        assert_eq!((total.neurons, total.changed, total.silenced, total.shifted, total.amplified), (5, 3, 1, 1, 0));
        assert_eq!(total.changed_by_projection, [2, 0, 1]);
        assert_eq!((total.min_scale, total.max_scale, total.mean_changed_scale, total.max_shift), (0.0, 1.0, 0.5, 0.25));
        assert_eq!(described.layers[&4].mean_changed_scale, 1.0);
        let text = described.to_string();
        assert!(text.contains("| 0 | 3 | 2 | 2 | 0 | 0 | 1 | 0 | 0.000 to 1.000 | 0.250 |"), "{text}");
        assert!(!text.contains("amplify"));
        glasses.insert(Site::new(5, Projection::Up), SiteIntervention::from_scale(vec![1.4, 1.4])).unwrap();
        assert!(glasses.describe().to_string().contains("2 scales are above 1 or below 0"), "{}", glasses.describe());
        assert_eq!(glasses.describe().layers[&5].min_scale, 1.4);
        assert_eq!(Intervention::default().describe().total, Summary::default());
    }
}

//! False-discovery rates.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A correction that turns the p-values of many neurons into q-values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// Benjamini and Hochberg, JRSS B 57 (1995): the adjusted p-values of the step-up procedure.
    BenjaminiHochberg,
    /// Storey, JRSS B 64 (2002): those of Benjamini and Hochberg times the estimated share of neurons without effect,
    /// #(p > lambda) / ((1 - lambda) m), at most 1.
    Storey {
        /// The p-value above which neurons count as without effect; 0.5 is usual.
        lambda: f64,
    },
}

/// The smallest false-discovery rate at which each p-value is selected; f64 in the order of `p`.
///
/// # Errors
///
/// [`Error::Parameter`] when a p-value is not in 0..=1 or lambda not in 0..1.
pub fn q_values(p: &[f64], correction: Correction) -> Result<Vec<f64>> {
    if let Some(wrong) = p.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(Error::Parameter { parameter: "p-value", value: wrong.to_string(), expected: "a number from 0 to 1".to_owned() });
    }
    let count = p.len() as f64;
    let without_effect = match correction {
        Correction::BenjaminiHochberg => 1.0,
        Correction::Storey { lambda } if (0.0..1.0).contains(&lambda) => {
            let above = p.iter().filter(|p| **p > lambda).count() as f64;
            (above / ((1.0 - lambda) * count)).min(1.0)
        }
        Correction::Storey { lambda } => {
            let expected = "a number from 0 to below 1".to_owned();
            return Err(Error::Parameter { parameter: "lambda", value: lambda.to_string(), expected });
        }
    };
    let mut order: Vec<usize> = (0..p.len()).collect();
    let at = |index: &usize| p.get(*index).copied().unwrap_or(f64::NAN);
    order.sort_by(|a, b| at(b).total_cmp(&at(a)));
    let (mut q, mut smallest) = (vec![1.0; p.len()], 1.0f64);
    for (rank, index) in (1..=p.len()).rev().zip(&order) {
        smallest = smallest.min(at(index) * count / rank as f64 * without_effect);
        if let Some(q) = q.get_mut(*index) {
            *q = smallest;
        }
    }
    Ok(q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_up_procedure_by_hand() {
        // Benjamini and Hochberg's own example: at 0.05 the four smallest are selected.
        let p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0];
        let q = q_values(&p, Correction::BenjaminiHochberg).unwrap();
        assert_eq!(q.iter().filter(|q| **q <= 0.05).count(), 4);
        assert!((q[3] - 0.0095 * 15.0 / 4.0).abs() < 1e-15);
        // 0.0603 is smaller than any value above it; the sixth, 0.0695, takes the seventh's.
        assert!((q[4] - 0.0201 * 3.0).abs() < 1e-12);
        assert!((q[5] - 0.0298 * 15.0 / 7.0).abs() < 1e-12);
        let storey = q_values(&p, Correction::Storey { lambda: 0.5 }).unwrap();
        let share = 4.0 / (0.5 * 15.0);
        assert!(storey.iter().zip(&q).all(|(s, q)| (s - q * share).abs() < 1e-15));
    }

    #[test]
    fn wrong_parameters_are_refused() {
        assert!(q_values(&[0.5, f64::NAN], Correction::BenjaminiHochberg).is_err());
        assert!(q_values(&[1.5], Correction::BenjaminiHochberg).is_err());
        assert!(q_values(&[0.5], Correction::Storey { lambda: 1.0 }).is_err());
        assert!(q_values(&[], Correction::Storey { lambda: 0.5 }).unwrap().is_empty());
    }
}

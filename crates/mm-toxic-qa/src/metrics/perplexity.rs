//! Perplexity, of each text and of all texts together.

use crate::metrics::mean::mean;
use crate::{Error, Result};

/// Perplexity as AurA defines it: the mean over texts of exp(mean token negative log-likelihood), in f64.
///
/// `texts` holds each text's token negative log-likelihoods in nats. Texts without a token are left out.
/// Source: Suau et al., *Whispering Experts* (arXiv 2407.12824); compare [`corpus_perplexity`].
///
/// # Errors
///
/// [`Error::NotFinite`] when a likelihood, or the perplexity it leads to, is not finite.
pub fn perplexity(texts: &[Vec<f64>]) -> Result<Option<f64>> {
    let mut perplexities = Vec::with_capacity(texts.len());
    for (text, nll) in texts.iter().enumerate() {
        perplexities.extend(exp_mean(text, nll)?);
    }
    Ok(mean(&perplexities))
}

/// The perplexity of all tokens of all texts together: exp(mean token negative log-likelihood), in f64.
///
/// Long texts weigh more here than in [`perplexity`], and one unlikely text less.
///
/// # Errors
///
/// [`Error::NotFinite`] as for [`perplexity`].
pub fn corpus_perplexity(texts: &[Vec<f64>]) -> Result<Option<f64>> {
    for (text, nll) in texts.iter().enumerate() {
        finite(text, nll)?;
    }
    exp_mean(0, &texts.concat())
}

fn exp_mean(text: usize, nll: &[f64]) -> Result<Option<f64>> {
    finite(text, nll)?;
    let Some(mean) = mean(nll) else { return Ok(None) };
    let value = mean.exp();
    if value.is_finite() { Ok(Some(value)) } else { Err(Error::NotFinite { text, value: mean }) }
}

fn finite(text: usize, nll: &[f64]) -> Result<()> {
    match nll.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(&value) => Err(Error::NotFinite { text, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_by_hand() {
        let (ln2, ln4) = (2f64.ln(), 4f64.ln());
        // Texts of perplexity 2 and 8 = sqrt(4 * 16): mean 5. All five tokens: 2^((3 + 6) / 5) = 2^1.8.
        let texts = vec![vec![ln2, ln2, ln2], vec![ln4, 4.0 * ln2], vec![]];
        assert!((perplexity(&texts).unwrap().unwrap() - 5.0).abs() < 1e-12);
        assert!((corpus_perplexity(&texts).unwrap().unwrap() - 2f64.powf(1.8)).abs() < 1e-12);
        assert_eq!(perplexity(&[vec![0.0, 0.0]]).unwrap(), Some(1.0));
    }

    #[test]
    fn likelihoods_that_overflow_are_errors() {
        for bad in [f64::NAN, f64::INFINITY, 1e6] {
            let texts = vec![vec![0.1], vec![0.2, bad]];
            assert!(matches!(perplexity(&texts), Err(Error::NotFinite { text: 1, .. })), "{bad}");
            assert!(matches!(corpus_perplexity(&texts), Err(Error::NotFinite { .. })), "{bad}");
        }
    }

    #[test]
    fn nothing_gives_none() {
        assert_eq!(perplexity(&[]).unwrap(), None);
        assert_eq!(perplexity(&[vec![]]).unwrap(), None);
        assert_eq!(corpus_perplexity(&[vec![], vec![]]).unwrap(), None);
    }
}

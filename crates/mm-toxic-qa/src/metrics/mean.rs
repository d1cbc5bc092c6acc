//! Means and shares; `None` without values.

/// The share of true flags.
pub fn share(flags: impl IntoIterator<Item = bool>) -> Option<f64> {
    let values: Vec<f64> = flags.into_iter().map(|flag| f64::from(u8::from(flag))).collect();
    mean(&values)
}

/// The arithmetic mean.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gives_none() {
        assert_eq!((share([]), mean(&[])), (None, None));
    }

    #[test]
    fn by_hand() {
        assert_eq!(share([true, true, false, true]), Some(0.75));
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
    }
}

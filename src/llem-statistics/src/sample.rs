//! Values that statistics can be made of.

use thiserror::Error;

/// Why values are no sample.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum SampleError {
    /// There are none.
    #[error("there are no values")]
    Empty,
    /// One is not a number, or infinite.
    #[error("value {} of {} is {value}: a figure must be finite", .index + 1, .n)]
    NotFinite {
        /// Its place, from 0.
        index: usize,
        /// How many values there are.
        n: usize,
        /// What it is.
        value: f64,
    },
}

/// One or more finite values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a>(&'a [f64]);

impl<'a> Sample<'a> {
    /// Takes the values if they are a sample.
    pub fn new(values: &'a [f64]) -> Result<Self, SampleError> {
        if values.is_empty() {
            return Err(SampleError::Empty);
        }
        let odd = values.iter().enumerate().find(|(_, value)| !value.is_finite());
        match odd {
            None => Ok(Self(values)),
            Some((index, value)) => Err(SampleError::NotFinite { index, n: values.len(), value: *value }),
        }
    }

    /// The values in their order.
    pub fn values(self) -> &'a [f64] {
        self.0
    }

    /// How many there are.
    pub fn n(self) -> usize {
        self.0.len()
    }

    /// Arithmetic mean. Deviations from the first value are summed, so that a small spread on a large value does not drown.
    pub fn mean(self) -> f64 {
        let origin = self.0.first().copied().unwrap_or_default();
        origin + self.0.iter().map(|value| value - origin).sum::<f64>() / self.0.len() as f64
    }

    /// Sample standard deviation (n − 1); nothing for a single value.
    pub fn sd(self) -> Option<f64> {
        let mean = self.mean();
        let squares: f64 = self.0.iter().map(|value| (value - mean).powi(2)).sum();
        (self.n() > 1).then(|| (squares / (self.n() - 1) as f64).sqrt())
    }

    /// The values in ascending order.
    pub(crate) fn sorted(self) -> Vec<f64> {
        let mut sorted = self.0.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::{Sample, SampleError};

    #[test]
    fn only_finite_values_are_a_sample() {
        assert_eq!(Sample::new(&[]), Err(SampleError::Empty));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = Sample::new(&[1.0, bad]).unwrap_err();
            assert!(matches!(error, SampleError::NotFinite { index: 1, n: 2, .. }));
            assert!(error.to_string().starts_with("value 2 of 2 is "), "{error}");
        }
    }

    #[test]
    fn a_small_spread_on_a_large_value_is_seen() {
        let values = [1e15, 1e15 + 1.0, 1e15 + 2.0];
        let sample = Sample::new(&values).unwrap();
        assert!((sample.mean() - 1e15 - 1.0).abs() < 1e-9);
        assert!((sample.sd().unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(Sample::new(&[4.0]).unwrap().sd(), None);
    }
}

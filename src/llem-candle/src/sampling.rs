use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};

use crate::error::DriverError;
use crate::settings::refuse_unknown;

/// How the next token is chosen from the logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sampling {
    /// The token of the highest logit, the lowest id on a tie.
    Greedy,
    /// A random token by its probability.
    Random {
        /// Logits are divided by it; above 0.
        temperature: f64,
        /// Only that many of the most probable tokens are eligible.
        top_k: Option<usize>,
        /// Only the most probable tokens that together reach this probability are eligible; in (0, 1].
        top_p: Option<f64>,
    },
}

impl Sampling {
    /// Reads an experiment's `sampling` section. Empty, or with temperature 0, it is greedy.
    pub(crate) fn new(section: &Map<String, Value>) -> Result<Self, DriverError> {
        refuse_unknown("sampling", section, &["temperature", "top_k", "top_p"])?;
        let temperature = number(section, "temperature", |value| value >= 0.0, "a number from 0")?;
        let top_p = number(section, "top_p", |value| value > 0.0 && value <= 1.0, "above 0 and at most 1")?;
        let top_k = number(section, "top_k", |value| value >= 1.0 && value.fract() == 0.0, "a whole number from 1")?;
        if temperature == Some(0.0) || section.values().all(Value::is_null) {
            return Ok(Self::Greedy);
        }
        Ok(Self::Random { temperature: temperature.unwrap_or(1.0), top_k: top_k.map(|count| count as usize), top_p })
    }

    /// Chooses a token. Fails on logits that are not finite.
    pub(crate) fn choose(self, logits: &[f32], random: &mut ChaCha8Rng) -> Result<u32, DriverError> {
        if logits.is_empty() || !logits.iter().all(|logit| logit.is_finite()) {
            return Err(DriverError::NotFinite);
        }
        Ok(match self {
            Self::Greedy => highest(logits),
            Self::Random { temperature, top_k, top_p } => draw(&eligible(logits, temperature, top_k, top_p), random),
        })
    }
}

/// The random numbers of one request: they depend on seed and request, not on the batch that it is in.
pub(crate) fn request_random(seed: u64, index: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(index);
    random
}

fn number(
    section: &Map<String, Value>,
    key: &str,
    is_valid: impl Fn(f64) -> bool,
    rule: &str,
) -> Result<Option<f64>, DriverError> {
    match section.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) if is_valid(number) => Ok(Some(number)),
            _ => Err(DriverError::Settings(format!("`sampling.{key}` is {value}; it must be {rule}"))),
        },
    }
}

fn highest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in (0_u32..).zip(logits) {
        if *logit > best.1 {
            best = (id, *logit);
        }
    }
    best.0
}

/// Eligible tokens with their weights, most probable first.
fn eligible(logits: &[f32], temperature: f64, top_k: Option<usize>, top_p: Option<f64>) -> Vec<(u32, f64)> {
    let mut tokens: Vec<(u32, f32)> = (0_u32..).zip(logits.iter().copied()).collect();
    tokens.sort_unstable_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    tokens.truncate(top_k.unwrap_or(usize::MAX));
    let most = tokens.first().map_or(0.0, |token| f64::from(token.1));
    let weight = |logit: f32| ((f64::from(logit) - most) / temperature).exp();
    let mut weights: Vec<(u32, f64)> = tokens.into_iter().map(|(id, logit)| (id, weight(logit))).collect();
    if let Some(top_p) = top_p {
        let target = top_p * weights.iter().map(|(_, weight)| weight).sum::<f64>();
        let mut sum = 0.0;
        let before_target = weights.iter().take_while(|(_, weight)| {
            let is_needed = sum < target;
            sum += weight;
            is_needed
        });
        let kept = before_target.count();
        weights.truncate(kept.max(1));
    }
    weights
}

fn draw(weights: &[(u32, f64)], random: &mut ChaCha8Rng) -> u32 {
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    // The upper 53 bits are a uniform number in [0, 1).
    let mut left = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * total;
    for (id, weight) in weights {
        left -= weight;
        if left < 0.0 {
            return *id;
        }
    }
    weights.last().map_or(0, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sampling(section: &Value) -> Result<Sampling, DriverError> {
        Sampling::new(section.as_object().unwrap())
    }

    #[test]
    fn sections_are_read_and_checked() {
        assert_eq!(sampling(&json!({})).unwrap(), Sampling::Greedy);
        assert_eq!(sampling(&json!({"temperature": 0, "top_k": 5})).unwrap(), Sampling::Greedy);
        let random = Sampling::Random { temperature: 1.0, top_k: Some(5), top_p: None };
        assert_eq!(sampling(&json!({"top_k": 5})).unwrap(), random);
        for bad in [json!({"temperature": -1}), json!({"top_p": 0}), json!({"top_p": 1.1}), json!({"top_k": 0})] {
            assert!(sampling(&bad).is_err(), "{bad}");
        }
        let error = sampling(&json!({"beams": 4})).unwrap_err();
        assert!(error.to_string().contains("sampling.beams"), "{error}");
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        let mut random = request_random(0, 0);
        assert_eq!(Sampling::Greedy.choose(&[1.0, 3.0, 3.0], &mut random).unwrap(), 1);
        assert!(Sampling::Greedy.choose(&[1.0, f32::NAN], &mut random).is_err());
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.0, f32::ln(3.0), f32::ln(6.0)];
        let mut random = request_random(1, 2);
        let all = Sampling::Random { temperature: 1.0, top_k: None, top_p: None };
        let mut counts = [0; 3];
        for _ in 0..20_000 {
            counts[all.choose(&logits, &mut random).unwrap() as usize] += 1;
        }
        for (count, share) in counts.iter().zip([0.1, 0.3, 0.6]) {
            assert!((f64::from(*count) / 20_000.0 - share).abs() < 0.02, "{counts:?}");
        }
    }

    #[test]
    fn limits_exclude_the_improbable() {
        let logits = [0.0, f32::ln(3.0), f32::ln(6.0)];
        let ids = |top_k, top_p| eligible(&logits, 1.0, top_k, top_p).iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(ids(Some(1), None), [2]);
        assert_eq!(ids(None, Some(0.59)), [2]);
        assert_eq!(ids(None, Some(0.61)), [2, 1]);
        assert_eq!(ids(None, Some(1.0)), [2, 1, 0]);
    }
}

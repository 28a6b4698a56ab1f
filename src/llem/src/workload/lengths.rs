use llem_protocol::WorkloadLine;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::WorkloadError;

/// A number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthSpec {
    /// The same for every request.
    Exact(u32),
    /// Drawn uniformly, both ends included.
    Uniform {
        /// Shortest; at least 1.
        min: u32,
        /// Longest.
        max: u32,
    },
}

/// The order in which requests are fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderSpec {
    /// As the data set has them.
    AsGiven,
    /// Shuffled with the seed.
    Shuffled,
    /// By prompt length in tokens, ties as the data set has them.
    ShortestFirst,
    /// By prompt length in tokens, ties as the data set has them.
    LongestFirst,
}

/// What random numbers are drawn for. Every request has a stream of its own for each, so that a draw depends neither on
/// how many requests there are nor on the other draws.
#[derive(Clone, Copy, Debug)]
pub(super) enum Draw {
    /// Token ids of the prompt.
    Ids,
    /// Length of the prompt.
    InputLength,
    /// Tokens to generate.
    OutputLength,
    /// Order of all requests; belongs to no single one.
    Order,
}

/// The generator of one draw for one request. ChaCha with 8 rounds: the same numbers on every machine.
pub(super) fn generator(seed: u64, draw: Draw, request: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream((request << 2) | draw as u64);
    generator
}

impl LengthSpec {
    /// The longest length that can be drawn.
    pub(super) const fn longest(self) -> u32 {
        match self {
            Self::Exact(tokens) | Self::Uniform { max: tokens, .. } => tokens,
        }
    }

    pub(super) const fn check(self, what: &'static str) -> Result<(), WorkloadError> {
        let reason = match self {
            Self::Exact(0) | Self::Uniform { min: 0, .. } => "allows 0 tokens: every request has at least 1",
            Self::Uniform { min, max } if min > max => "has a `min` above its `max`",
            _ => return Ok(()),
        };
        Err(WorkloadError::Number { what, reason })
    }

    /// The length for one request.
    pub(super) fn draw(self, seed: u64, draw: Draw, request: u64) -> u32 {
        match self {
            Self::Exact(tokens) => tokens,
            Self::Uniform { min, max } => generator(seed, draw, request).random_range(min..=max),
        }
    }
}

impl OrderSpec {
    /// Puts the requests into this order and numbers them by their place.
    pub(super) fn apply(self, lines: &mut [WorkloadLine], seed: u64) {
        match self {
            Self::AsGiven => {}
            Self::Shuffled => lines.shuffle(&mut generator(seed, Draw::Order, 0)),
            Self::ShortestFirst => lines.sort_by_key(|line| line.prompt_ids.len()),
            Self::LongestFirst => lines.sort_by_key(|line| std::cmp::Reverse(line.prompt_ids.len())),
        }
        for (index, line) in (0..).zip(lines) {
            line.index = index;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lengths: &[usize]) -> Vec<WorkloadLine> {
        let line = |(index, &length)| WorkloadLine { index, prompt_ids: vec![7; length], output_tokens: index as u32 };
        (0..).zip(lengths).map(line).collect()
    }

    /// Original positions in their new order; `output_tokens` carries them.
    fn ordered(order: OrderSpec, seed: u64) -> Vec<u32> {
        let mut lines = lines(&[3, 1, 2, 1, 3]);
        order.apply(&mut lines, seed);
        assert!(lines.iter().map(|line| line.index).eq(0..5));
        lines.iter().map(|line| line.output_tokens).collect()
    }

    #[test]
    fn orders_keep_ties_as_they_were() {
        assert_eq!(ordered(OrderSpec::AsGiven, 1), [0, 1, 2, 3, 4]);
        assert_eq!(ordered(OrderSpec::ShortestFirst, 1), [1, 3, 2, 0, 4]);
        assert_eq!(ordered(OrderSpec::LongestFirst, 1), [0, 4, 2, 1, 3]);
    }

    #[test]
    fn shuffling_follows_the_seed() {
        let shuffled: Vec<_> = (0..20).map(|seed| ordered(OrderSpec::Shuffled, seed)).collect();
        assert!(shuffled.iter().any(|order| *order != [0, 1, 2, 3, 4]));
        assert!(shuffled.iter().any(|order| *order != shuffled[0]));
        for (seed, order) in (0..).zip(&shuffled) {
            assert_eq!(ordered(OrderSpec::Shuffled, seed), *order);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn drawn_lengths_cover_their_range_with_both_ends() {
        let range = LengthSpec::Uniform { min: 3, max: 6 };
        let mut seen: Vec<u32> = (0..200).map(|request| range.draw(5, Draw::InputLength, request)).collect();
        let outputs: Vec<u32> = (0..200).map(|request| range.draw(5, Draw::OutputLength, request)).collect();
        assert_ne!(seen, outputs);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [3, 4, 5, 6]);
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert!(LengthSpec::Exact(1).check("n").is_ok());
        assert!(LengthSpec::Uniform { min: 2, max: 2 }.check("n").is_ok());
        for length in
            [LengthSpec::Exact(0), LengthSpec::Uniform { min: 0, max: 2 }, LengthSpec::Uniform { min: 3, max: 2 }]
        {
            assert!(length.check("n").is_err(), "{length:?}");
        }
    }
}

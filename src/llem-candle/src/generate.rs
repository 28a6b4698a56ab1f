//! Generation in static batches: the next batch begins when the last request of the one before is done.

use llem_protocol::{RequestRecord, WorkloadLine};
use rand_chacha::ChaCha8Rng;

use crate::error::DriverError;
use crate::model::{Cache, Model, Step};
use crate::sampling::{Sampling, request_random};
use crate::system::monotonic_ns;

/// A loaded model with the workload that it is to run.
pub(crate) struct Generator {
    /// The model.
    pub(crate) model: Model,
    /// The requests in the order in which they are fed.
    pub(crate) requests: Vec<WorkloadLine>,
    /// Requests that are generated together.
    pub(crate) batch_size: usize,
    /// How tokens are chosen.
    pub(crate) sampling: Sampling,
    /// Seed of the choice.
    pub(crate) seed: u64,
    /// Tokens that end a request early; empty when they are ignored.
    pub(crate) eos_ids: Vec<u32>,
}

/// One request on its way.
struct Sequence<'a> {
    request: &'a WorkloadLine,
    /// The most tokens that are generated.
    limit: usize,
    cache: Cache,
    random: ChaCha8Rng,
    output_ids: Vec<u32>,
    token_ns: Vec<u64>,
}

impl Generator {
    /// Runs the whole workload once and returns a record for each request, in the order of the workload. With `prefill_only` every
    /// request stops after its first token.
    pub(crate) fn pass(&self, pass: u32, prefill_only: bool) -> Result<Vec<RequestRecord>, DriverError> {
        let mut records = Vec::with_capacity(self.requests.len());
        for (batch, requests) in (0_u32..).zip(self.requests.chunks(self.batch_size.max(1))) {
            let submit_ns = monotonic_ns();
            for sequence in self.batch(requests, prefill_only)? {
                records.push(sequence.into_record(pass, batch, submit_ns));
            }
        }
        Ok(records)
    }

    fn batch<'a>(&self, requests: &'a [WorkloadLine], prefill_only: bool) -> Result<Vec<Sequence<'a>>, DriverError> {
        let limit = |request: &WorkloadLine| if prefill_only { 1 } else { request.output_tokens as usize };
        let mut sequences =
            requests.iter().map(|request| self.sequence(request, limit(request))).collect::<Result<Vec<_>, _>>()?;
        loop {
            // Requests that are done leave the batch: their rows would be computed for nothing.
            let mut live: Vec<_> = sequences.iter_mut().filter(|sequence| !self.is_done(sequence)).collect();
            if live.is_empty() {
                return Ok(sequences);
            }
            let mut steps: Vec<_> = live.iter_mut().map(|sequence| sequence.step()).collect();
            let logits = self.model.forward(&mut steps)?;
            let mut tokens = Vec::with_capacity(live.len());
            for (sequence, logits) in live.iter_mut().zip(&logits) {
                tokens.push(self.sampling.choose(logits, &mut sequence.random)?);
            }
            let now_ns = monotonic_ns();
            for (sequence, token) in live.into_iter().zip(tokens) {
                sequence.output_ids.push(token);
                sequence.token_ns.push(now_ns);
            }
        }
    }

    fn sequence<'a>(&self, request: &'a WorkloadLine, limit: usize) -> Result<Sequence<'a>, DriverError> {
        Ok(Sequence {
            request,
            limit,
            // The last generated token is never fed.
            cache: self.model.cache(request.prompt_ids.len() + limit - 1)?,
            random: request_random(self.seed, request.index),
            output_ids: Vec::with_capacity(limit),
            token_ns: Vec::with_capacity(limit),
        })
    }

    fn is_done(&self, sequence: &Sequence<'_>) -> bool {
        sequence.output_ids.len() >= sequence.limit
            || sequence.output_ids.last().is_some_and(|last| self.eos_ids.contains(last))
    }
}

impl Sequence<'_> {
    fn step(&mut self) -> Step<'_> {
        let ids = self.output_ids.last().map_or(self.request.prompt_ids.as_slice(), std::slice::from_ref);
        Step { ids, cache: &mut self.cache }
    }

    fn into_record(self, pass: u32, batch: u32, submit_ns: u64) -> RequestRecord {
        RequestRecord {
            pass,
            index: self.request.index,
            batch: Some(batch),
            prompt_tokens: self.request.prompt_ids.len() as u32,
            submit_ns,
            token_ns: self.token_ns,
            output_ids: self.output_ids,
        }
    }
}

//! From stamps and counters to figures.

use llem_protocol::{Phase, PowerDomain, PowerSourceKind, RequestRecord, WindowRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Distribution;
use super::energy::{EnergyContext, EnergyFigures, Work, energy_figures};
use super::plausible::impossible;

/// The figures of one run. All of them are about the window; padding is never counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metrics {
    /// Length of the window in seconds.
    pub window_s: f64,
    /// Whole passes of the workload in the window.
    pub passes: u64,
    /// Requests in the window.
    pub requests: u64,
    /// Prompt tokens in the window.
    pub prompt_tokens: u64,
    /// Generated tokens in the window.
    pub output_tokens: u64,
    /// Generated tokens per second of window.
    pub output_tokens_per_s: f64,
    /// Requests per second of window.
    pub requests_per_s: f64,
    /// Time to first token in milliseconds: from handing the request to the engine to its first token.
    pub ttft_ms: Option<Distribution>,
    /// Inter-token latency in milliseconds: between two tokens of a request; null when all outputs have one token.
    pub itl_ms: Option<Distribution>,
    /// End-to-end latency in milliseconds: from handing the request to the engine to its last token.
    pub e2e_ms: Option<Distribution>,
    /// Energy; figures are null where no sensor could be read, and the run's reasons say why.
    pub energy: EnergyFigures,
    /// Peak memory of the engine on its devices in bytes, when the engine knows it.
    pub peak_memory_bytes: Option<u64>,
}

/// Records that cannot be true.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RunMetricsError {
    /// Edges in the wrong order.
    #[error("the window ends before it starts")]
    Window,
    /// The passes say something else than the requests.
    #[error("the passes count {passes} output tokens, the requests {requests}")]
    OutputTokens {
        /// Sum over passes.
        passes: u64,
        /// Sum over requests.
        requests: u64,
    },
    /// A stamp outside the window, or out of order.
    #[error("request {index} of pass {pass} has a time stamp outside its window or out of order")]
    Stamp {
        /// The pass.
        pass: u32,
        /// The request.
        index: u64,
    },
    /// An energy or a power that no machine has.
    #[error("an energy, a power, an uncertainty or an edge of {domain} cannot be true")]
    Energy {
        /// The sensor.
        domain: String,
    },
    /// A phase, or a stretch of it, in the wrong order.
    #[error("the times of the phase `{phase}` cannot be true")]
    Phase {
        /// Which.
        phase: Phase,
    },
    /// Passes of prefill alone that end before they start.
    #[error("the passes of prefill alone end before they start")]
    Prefill,
    /// What the agent says that it used itself.
    #[error("what the agent says that it used itself cannot be true")]
    Agent,
}

/// Computes the figures of a window.
pub fn run_metrics(
    window: &WindowRecord,
    requests: &[RequestRecord],
    energy: &EnergyContext<'_>,
    peak_memory_bytes: Option<u64>,
) -> Result<Metrics, RunMetricsError> {
    let window_s = seconds(window.start_ns, window.end_ns).filter(|s| *s > 0.0).ok_or(RunMetricsError::Window)?;
    let output_tokens = check_counts(window, requests)?;
    for request in requests {
        check_stamps(window, request)?;
    }
    if let Some(error) = impossible(window, energy) {
        return Err(error);
    }
    let prompt_tokens = requests.iter().map(|r| u64::from(r.prompt_tokens)).sum();
    let work = Work { seconds: window_s, requests: requests.len() as u64, prompt_tokens, output_tokens };
    Ok(Metrics {
        window_s,
        passes: window.passes.len() as u64,
        requests: requests.len() as u64,
        prompt_tokens,
        output_tokens,
        output_tokens_per_s: output_tokens as f64 / window_s,
        requests_per_s: requests.len() as f64 / window_s,
        ttft_ms: Distribution::of(requests.iter().filter_map(ttft_ms).collect()),
        itl_ms: Distribution::of(requests.iter().flat_map(itl_ms).collect()),
        e2e_ms: Distribution::of(requests.iter().filter_map(e2e_ms).collect()),
        energy: energy_figures(window, work, energy),
        peak_memory_bytes,
    })
}

/// Time to first token in milliseconds.
pub(super) fn ttft_ms(request: &RequestRecord) -> Option<f64> {
    request.token_ns.first().map(|first| millis(request.submit_ns, *first))
}

/// End-to-end latency in milliseconds.
pub(super) fn e2e_ms(request: &RequestRecord) -> Option<f64> {
    request.token_ns.last().map(|last| millis(request.submit_ns, *last))
}

/// Times between successive tokens in milliseconds.
pub(super) fn itl_ms(request: &RequestRecord) -> impl Iterator<Item = f64> + '_ {
    request.token_ns.windows(2).filter_map(|pair| match pair {
        [earlier, later] => Some(millis(*earlier, *later)),
        _ => None,
    })
}

fn check_counts(window: &WindowRecord, requests: &[RequestRecord]) -> Result<u64, RunMetricsError> {
    let by_pass: u64 = window.passes.iter().map(|p| p.output_tokens).sum();
    let by_request: u64 = requests.iter().map(|r| r.token_ns.len() as u64).sum();
    if by_pass == by_request {
        Ok(by_request)
    } else {
        Err(RunMetricsError::OutputTokens { passes: by_pass, requests: by_request })
    }
}

fn check_stamps(window: &WindowRecord, request: &RequestRecord) -> Result<(), RunMetricsError> {
    let mut last = window.start_ns;
    for stamp in std::iter::once(&request.submit_ns).chain(&request.token_ns).chain(std::iter::once(&window.end_ns)) {
        if *stamp < last {
            return Err(RunMetricsError::Stamp { pass: request.pass, index: request.index });
        }
        last = *stamp;
    }
    Ok(())
}

/// Seconds between two stamps, or nothing when they are in the wrong order.
fn seconds(from_ns: u64, to_ns: u64) -> Option<f64> {
    to_ns.checked_sub(from_ns).map(|ns| ns as f64 / 1e9)
}

fn millis(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e6
}

/// `source:id`, for tables and files.
pub(super) fn domain_name(domain: &PowerDomain) -> String {
    let source = match domain.source {
        PowerSourceKind::Nvml => "nvml",
        PowerSourceKind::Rapl => "rapl",
    };
    format!("{source}:{}", domain.id)
}

#[cfg(test)]
mod tests {
    use llem_protocol::{EnergyReport, PassRecord, RequestRecord, SelfUsage, WindowRecord};

    use super::{EnergyContext, RunMetricsError, run_metrics};

    const S: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    fn request(index: u64, submit: u64, tokens: &[u64]) -> RequestRecord {
        RequestRecord {
            pass: 3,
            index,
            batch: Some(0),
            prompt_tokens: 5,
            submit_ns: submit,
            token_ns: tokens.to_vec(),
            output_ids: vec![1; tokens.len()],
        }
    }

    fn window(output_tokens: u64) -> WindowRecord {
        let pass = PassRecord { pass: 3, start_ns: 10 * S, end_ns: 12 * S, prompt_tokens: 10, output_tokens };
        WindowRecord {
            start_ns: 10 * S,
            end_ns: 12 * S,
            passes: vec![pass],
            energy: EnergyReport::default(),
            split: Vec::new(),
            agent: SelfUsage::default(),
            run_cpu_s: None,
        }
    }

    fn two_requests() -> Vec<RequestRecord> {
        vec![
            request(0, 10 * S, &[10 * S + 100 * MS, 10 * S + 110 * MS, 10 * S + 130 * MS]),
            request(1, 10 * S, &[10 * S + 300 * MS]),
        ]
    }

    #[test]
    fn latencies_and_rates_come_from_stamps() {
        let m = run_metrics(&window(4), &two_requests(), &EnergyContext::default(), None).unwrap();
        let (ttft, itl, e2e) = (m.ttft_ms.unwrap(), m.itl_ms.unwrap(), m.e2e_ms.unwrap());
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        close(ttft.mean, 200.0);
        close(itl.min, 10.0);
        close(itl.max, 20.0);
        assert_eq!(itl.n, 2);
        close(e2e.min, 130.0);
        close(m.output_tokens_per_s, 2.0);
        close(m.requests_per_s, 1.0);
        assert_eq!((m.prompt_tokens, m.output_tokens, m.requests), (10, 4, 2));
    }

    #[test]
    fn records_that_cannot_be_true_are_refused() {
        let refuse = |tokens, requests: Vec<RequestRecord>| {
            run_metrics(&window(tokens), &requests, &EnergyContext::default(), None).unwrap_err()
        };
        // 568 reported for 4 generated: padding counted.
        assert_eq!(refuse(568, two_requests()), RunMetricsError::OutputTokens { passes: 568, requests: 4 });
        let stamp = |index| RunMetricsError::Stamp { pass: 3, index };
        assert_eq!(refuse(1, vec![request(7, 9 * S, &[11 * S])]), stamp(7));
        assert_eq!(refuse(1, vec![request(8, 10 * S, &[13 * S])]), stamp(8));
        assert_eq!(refuse(2, vec![request(9, 10 * S, &[11 * S, 11 * S - 1])]), stamp(9));
        let mut backwards = window(0);
        backwards.end_ns = backwards.start_ns;
        assert_eq!(run_metrics(&backwards, &[], &EnergyContext::default(), None).unwrap_err(), RunMetricsError::Window);
    }
}

//! Rules of `sampling`.

use super::super::check::Finding;
use super::super::experiment::ExperimentConfig;

pub(super) fn rules(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    let sampling = &config.sampling;
    if sampling.temperature == Some(0.0) {
        for (field, given) in [("top_k", sampling.top_k.is_some()), ("top_p", sampling.top_p.is_some())] {
            if given {
                let message = "has no effect: `sampling.temperature` 0 always takes the most likely token";
                let finding = Finding::value(format!("/sampling/{field}"), message);
                findings.push(finding.hint("remove it, or set a temperature above 0"));
            }
        }
    }
    if sampling.top_p == Some(0.0) {
        findings.push(
            Finding::value("/sampling/top_p", "must be greater than 0")
                .hint("for greedy decoding set `temperature: 0`"),
        );
    }
}

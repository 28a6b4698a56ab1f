//! Rules of `sampling`.

use super::super::check::Finding;
use super::super::experiment::ExperimentConfig;
use super::no_effect;

pub(super) fn rules(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    let sampling = &config.sampling;
    let greedy = sampling.temperature == Some(0.0);
    for (field, given) in [("top_k", sampling.top_k.is_some()), ("top_p", sampling.top_p.is_some())] {
        if greedy && given {
            let pointer = format!("/sampling/{field}");
            let finding = no_effect(&pointer, "`sampling.temperature` 0 always takes the most likely token");
            findings.push(finding.hint("remove it, or set a temperature above 0"));
        }
    }
    if sampling.top_p == Some(0.0) && !greedy {
        let finding = Finding::value("/sampling/top_p", "must be greater than 0");
        findings.push(finding.hint("for the most likely token, set `temperature: 0`"));
    }
}

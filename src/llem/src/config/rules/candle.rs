//! Rules of the embedded backend.

use super::super::check::Finding;
use super::super::experiment::ExperimentConfig;
use super::super::model::Dtype;

pub(super) fn rules(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    if matches!(config.dtype, Dtype::Float16 | Dtype::Bfloat16) {
        let message = format!("the embedded engine computes in float32, not in {}", config.dtype.name());
        findings.push(Finding::value("/dtype", message).hint("use `dtype: float32`, or `auto`"));
    }
}

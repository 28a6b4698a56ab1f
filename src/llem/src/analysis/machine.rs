//! What runs were measured on and with: facts, each with its values and how many runs have them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::result::RunResult;

/// Values of one fact that are told apart.
const VALUES: usize = 12;

/// Longest value that is kept, in characters.
const VALUE_CHARS: usize = 300;

/// One fact about the runs of a study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Dotted name, e.g. `host.cpu_model`.
    pub name: String,
    /// Its values with the number of runs that have each.
    pub values: Vec<(String, u64)>,
}

/// Facts of runs, while they are collected.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts(BTreeMap<String, BTreeMap<String, u64>>);

impl Facts {
    /// Adds those of a run. What differs by nature from run to run (ids, times) is not among them.
    pub(super) fn add(&mut self, run: &RunResult) {
        self.text("llem.version", &run.llem_version);
        self.maybe("llem.commit", run.llem_commit.as_deref());
        self.maybe("agent.version", run.agent_version.as_deref());
        self.text("agent.sha256", &run.agent_sha256);
        self.text("runner", &run.runner);
        self.text("model.source", &run.model.source);
        self.maybe("model.revision", run.model.revision.as_deref());
        self.maybe("model.architecture", run.model.architecture.as_deref());
        self.maybe("model.parameters", run.model.parameters.map(|n| n.to_string()).as_deref());
        self.text("workload.sha256", &run.workload.sha256);
        if let Some(engine) = &run.engine {
            self.text(&format!("engine.{}", engine.engine), &engine.engine_version);
            for (library, version) in &engine.libraries {
                self.text(&format!("engine.{}.{library}", engine.engine), version);
            }
        }
        if let Some(container) = &run.container {
            self.text("container.image", &container.image);
            self.text("container.image_id", &container.image_id);
            self.text("container.image_digests", &container.image_digests.join(" "));
            self.text("container.engine_version", &container.engine_version);
            self.text("container.gpu_access", &container.gpu_access);
        }
        if let Some(host) = run.host.as_ref().and_then(|host| serde_json::to_value(host).ok()) {
            self.tree("host", &host);
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (name, values) in other.0 {
            let own = self.0.entry(name).or_default();
            for (value, runs) in values {
                *own.entry(value).or_default() += runs;
            }
        }
    }

    /// Most frequent values first; many are cut to as many as can be told apart.
    pub(super) fn into_list(self) -> Vec<Fact> {
        let fact = |(name, values): (String, BTreeMap<String, u64>)| {
            let mut values: Vec<(String, u64)> = values.into_iter().collect();
            values.sort_by_key(|(_, runs)| std::cmp::Reverse(*runs));
            let rest: u64 = values.iter().skip(VALUES).map(|(_, runs)| runs).sum();
            let others = values.len().saturating_sub(VALUES);
            values.truncate(VALUES);
            if others > 0 {
                values.push((format!("{others} other values"), rest));
            }
            Fact { name, values }
        };
        self.0.into_iter().map(fact).collect()
    }

    fn text(&mut self, name: &str, value: &str) {
        let value = value.chars().take(VALUE_CHARS).collect();
        *self.0.entry(name.to_owned()).or_default().entry(value).or_default() += 1;
    }

    fn maybe(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn tree(&mut self, name: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(entries) => {
                entries.iter().for_each(|(key, inner)| self.tree(&format!("{name}.{key}"), inner));
            }
            Value::Array(list) => {
                list.iter()
                    .zip(0..)
                    .for_each(|(inner, place): (&Value, u32)| self.tree(&format!("{name}.{place}"), inner));
            }
            Value::String(text) => self.text(name, text),
            other => self.text(name, &other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Facts;
    use crate::result::RunResult;

    #[test]
    fn what_varies_between_runs_is_counted() {
        let old = include_bytes!("../../../../tests/old-results/schema-1/result.json");
        let run = RunResult::from_json(old).unwrap();
        let (mut one, mut two) = (Facts::default(), Facts::default());
        one.add(&run);
        one.add(&RunResult { llem_version: "9.9.9".to_owned(), ..run.clone() });
        two.add(&run);
        one.merge(two);
        let list = one.into_list();
        let of = |name: &str| list.iter().find(|fact| fact.name == name).unwrap().values.clone();
        assert_eq!(of("llem.version"), [(run.llem_version, 2), ("9.9.9".to_owned(), 1)]);
        assert_eq!(of("runner").len(), 1);
    }
}

//! Containers that outlived their controller: the next controller of the same study follows them to their end.

use std::path::Path;

use bollard::models::ContainerInspectResponse;
use jiff::Timestamp;
use llem_protocol::Job;

use super::client::EngineError;
use super::reaper::{is_moved, is_ours, label};
use super::supervise::follow_to_end;
use super::{ContainerRecord, DockerRunner, LABEL_LOCK, LABEL_RUN, container_name, engine_failure};
use crate::runner::{EventSink, RunOutcome, RunSpec, Stop};

/// A container of a study whose controller died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The engine's id.
    pub id: String,
    /// The run that it belongs to, by its label.
    pub run_id: String,
    /// Its name.
    name: String,
    /// Content id of its image.
    image_id: String,
    /// When its agent was started; `None` for a container that was only made.
    pub started: Option<Timestamp>,
    /// When it ended, if it has.
    pub finished: Option<Timestamp>,
}

impl Survivor {
    /// Whether it is the container of a run's own attempt, and its agent was started.
    pub fn is_of(&self, job: &Job) -> bool {
        self.started.is_some() && self.run_id == job.run_id && self.name == container_name(job)
    }
}

impl DockerRunner {
    /// The containers of the study whose controllers hold, or held, `study_lock`, and those of `names` whose study was where nothing is
    /// any more: its directory was moved.
    pub async fn survivors(&self, study_lock: &Path, names: &[String]) -> Result<Vec<Survivor>, EngineError> {
        let mut survivors = Vec::new();
        for container in self.engine.containers(LABEL_RUN).await? {
            let of_lock = label(&container, LABEL_LOCK).is_some_and(|path| Path::new(path) == study_lock);
            let of_study = of_lock || is_moved(&container, names);
            let (Some(id), Some(run_id)) = (&container.id, label(&container, LABEL_RUN)) else { continue };
            if !of_study || !is_ours(&container) {
                continue;
            }
            match self.engine.inspect(id).await {
                Ok(details) => survivors.push(survivor(id, run_id, &details)),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(survivors)
    }

    /// Follows a survivor to its end and removes it, as if this controller had started it: what it wrote is read from its beginning.
    pub async fn adopt(&self, survivor: &Survivor, spec: &RunSpec, events: &EventSink, stop: &Stop) -> RunOutcome {
        tokio::select! {
            outcome = self.adopt_to_end(survivor, spec, events, stop) => outcome,
            () = super::after_kill_grace(stop) => super::abandoned(),
        }
    }

    async fn adopt_to_end(&self, survivor: &Survivor, spec: &RunSpec, events: &EventSink, stop: &Stop) -> RunOutcome {
        let mut outcome = match self.record_of(survivor, spec).await {
            Ok(record) => follow_to_end(&self.engine, record, spec, events, stop).await,
            Err(error) => {
                let failure = engine_failure(&error);
                RunOutcome { failure: Some(failure), ..RunOutcome::default() }
            }
        };
        self.remove(&survivor.id, &mut outcome).await;
        outcome
    }

    /// Removes a survivor that nobody can use.
    pub async fn discard(&self, survivor: &Survivor) -> Result<(), EngineError> {
        self.engine.remove(&survivor.id).await
    }

    /// What a result says about a survivor.
    async fn record_of(&self, survivor: &Survivor, spec: &RunSpec) -> Result<ContainerRecord, EngineError> {
        let image = self.engine.image(&survivor.image_id).await?.unwrap_or_default();
        let access = self.gpu_plan(&spec.job).map_or("unknown", |plan| plan.access.name());
        let (record, _) = self.describe(&survivor.id, spec, &image, access);
        Ok(record)
    }
}

fn survivor(id: &str, run_id: &str, details: &ContainerInspectResponse) -> Survivor {
    let state = details.state.clone().unwrap_or_default();
    Survivor {
        id: id.to_owned(),
        run_id: run_id.to_owned(),
        name: details.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned(),
        image_id: details.image.clone().unwrap_or_default(),
        started: state.started_at.as_deref().and_then(moment),
        finished: state.finished_at.as_deref().and_then(moment).filter(|_| state.running != Some(true)),
    }
}

/// A moment by the engine's account. What never happened is in the year 1.
fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|moment| *moment > Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerInspectResponse, ContainerState};

    use super::survivor;

    fn with_times(started: &str, finished: &str, running: bool) -> super::Survivor {
        let state = ContainerState {
            started_at: Some(started.to_owned()),
            finished_at: Some(finished.to_owned()),
            running: Some(running),
            ..ContainerState::default()
        };
        let details = ContainerInspectResponse {
            name: Some("/llem-001-a-c1-01234567".to_owned()),
            state: Some(state),
            ..ContainerInspectResponse::default()
        };
        survivor("id", "001-a-c1", &details)
    }

    #[test]
    fn the_engines_times_are_read_and_its_year_1_is_never() {
        let (never, then) = ("0001-01-01T00:00:00Z", "2026-11-22T08:00:00.123456789Z");
        let times = |found: super::Survivor| (found.started.is_some(), found.finished.is_some());
        assert_eq!(times(with_times(never, never, false)), (false, false));
        assert_eq!(times(with_times(then, never, true)), (true, false));
        assert_eq!(times(with_times(then, then, false)), (true, true));
        assert_eq!(with_times(then, then, true).finished, None, "an end before it was started again");
        assert_eq!(with_times(then, then, false).name, "llem-001-a-c1-01234567");
    }
}

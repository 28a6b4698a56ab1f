//! What `squeue` and `sacct` say of jobs.

/// Name, index in the array, id of the array, state, node, why it waits; none of them has a `|`.
pub(super) const FORMAT: &str = "%j|%K|%F|%T|%N|%r";

/// The same for `sacct`; its job id is `array_index`.
pub(super) const ACCOUNT_FORMAT: &str = "--format=JobName,JobID,State,NodeList";

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has no node yet.
    Waiting,
    /// It has a node, and may still write.
    Running,
    /// It is over.
    Ended(End),
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, whatever its exit code.
    Exited,
    /// Somebody cancelled it.
    Cancelled,
    /// It reached its time limit.
    TimeLimit,
    /// Its node failed, or was needed for somebody else.
    NodeLost,
    /// It had more main memory than it was given.
    OutOfMemory,
    /// SLURM does not know it any more.
    Forgotten,
}

/// One job of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Name of its array.
    pub name: String,
    /// Index in the array.
    pub index: usize,
    /// Job id of the array.
    pub job: u64,
    /// How far it is.
    pub stage: Stage,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// Why it waits, in SLURM's own word; only of jobs that wait for something out of the ordinary.
    pub waits_for: Option<String>,
}

/// Reads lines of [`FORMAT`]; what is none is passed over.
pub(super) fn parse(text: &str) -> Vec<Listed> {
    text.lines().filter_map(listed).collect()
}

fn listed(line: &str) -> Option<Listed> {
    let mut fields = line.trim().split('|');
    let name = fields.next()?.to_owned();
    let index = fields.next()?.parse().ok()?;
    let job = fields.next()?.parse().ok()?;
    let stage = stage(fields.next()?);
    let node = node(fields.next());
    let waits_for = fields.next().filter(|reason| stage == Stage::Waiting && !ORDINARY.contains(reason));
    Some(Listed { name, index, job, stage, node, waits_for: waits_for.map(str::to_owned) })
}

/// What jobs wait for in every queue: their turn, room, each other.
const ORDINARY: [&str; 8] =
    ["", "None", "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit", "Cleaning"];

/// Reads lines of [`ACCOUNT_FORMAT`].
pub(super) fn parse_accounts(text: &str) -> Vec<Listed> {
    let accounted = |line: &str| {
        let mut fields = line.trim().split('|');
        let name = fields.next()?.to_owned();
        let (job, index) = fields.next()?.split_once('_')?;
        // `CANCELLED by 1000`.
        let stage = stage(fields.next()?.split(' ').next()?);
        let (index, job) = (index.parse().ok()?, job.parse().ok()?);
        Some(Listed { name, index, job, stage, node: node(fields.next()), waits_for: None })
    };
    text.lines().filter_map(accounted).collect()
}

fn node(field: Option<&str>) -> Option<String> {
    field.filter(|node| !node.is_empty() && !node.starts_with("None")).map(str::to_owned)
}

/// A state that is not known is that of a job that still exists.
fn stage(state: &str) -> Stage {
    match state {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => {
            Stage::Waiting
        }
        "COMPLETED" | "FAILED" => Stage::Ended(End::Exited),
        "CANCELLED" => Stage::Ended(End::Cancelled),
        "TIMEOUT" | "DEADLINE" => Stage::Ended(End::TimeLimit),
        "NODE_FAIL" | "BOOT_FAIL" | "PREEMPTED" | "REVOKED" => Stage::Ended(End::NodeLost),
        "OUT_OF_MEMORY" => Stage::Ended(End::OutOfMemory),
        _ => Stage::Running,
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Stage, parse, parse_accounts};

    #[test]
    fn a_queue_is_read_line_by_line() {
        let text = "llem-1|0|77|RUNNING|n01|None\nllem-1|1|77|PENDING||Priority\nllem-1|2|77|NODE_FAIL|n02|None\nsomething else\n\
                    llem-1|3|77|COMPLETING|n03\nllem-1|N/A|78|RUNNING|n01|None\n";
        let found: Vec<_> = parse(text).into_iter().map(|job| (job.index, job.job, job.stage, job.node)).collect();
        let node = |name: &str| Some(name.to_owned());
        let expected = [
            (0, 77, Stage::Running, node("n01")),
            (1, 77, Stage::Waiting, None),
            (2, 77, Stage::Ended(End::NodeLost), node("n02")),
            (3, 77, Stage::Running, node("n03")),
        ];
        assert_eq!(found, expected);
        let held = parse("llem-1|1|77|PENDING||PartitionTimeLimit\nllem-1|2|77|PENDING||Resources\n");
        let reasons: Vec<_> = held.iter().map(|job| job.waits_for.as_deref()).collect();
        assert_eq!(reasons, [Some("PartitionTimeLimit"), None]);
    }

    #[test]
    fn accounts_tell_the_same() {
        let text = "llem-1|77_0|COMPLETED|n01\nllem-1|77_1|CANCELLED by 1000|None assigned\nllem-1|77_[2-9]|PENDING|\n";
        let found: Vec<_> = parse_accounts(text).into_iter().map(|job| (job.index, job.stage, job.node)).collect();
        let node = Some("n01".to_owned());
        assert_eq!(found, [(0, Stage::Ended(End::Exited), node), (1, Stage::Ended(End::Cancelled), None)]);
    }
}

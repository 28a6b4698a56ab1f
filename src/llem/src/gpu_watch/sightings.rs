//! Which process was seen on which GPU, and from when to when.

use super::process::{ProcessFacts, Processes};
use super::record::GpuProcess;
use crate::host::nvml::GpuClient;

/// Longest time between two looks that still counts as watching, in nanoseconds.
const LONGEST_GAP_NS: u64 = 1_000_000_000;

/// Sightings that are kept; a machine on which more processes come and go cannot be measured anyway.
const SIGHTINGS: usize = 10_000;

/// One stay of one process on one GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    /// Index of the GPU.
    pub(super) gpu: usize,
    /// The process.
    pub(super) pid: u32,
    /// Whether it had a context for graphics.
    pub(super) graphics: bool,
    /// The most memory that it was seen to hold on the GPU, in bytes.
    pub(super) memory_bytes: Option<u64>,
    /// When it was first seen.
    pub(super) first_seen_ns: u64,
    /// When it was last seen.
    pub(super) last_seen_ns: u64,
    /// Absent for a process that was gone, or hidden, whenever it was looked up.
    pub(super) facts: Option<ProcessFacts>,
    /// The GPU's look that saw it last.
    look: u64,
}

/// When a GPU's processes were listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Looks {
    count: u64,
    first_ns: u64,
    last_ns: u64,
    gaps: Vec<(u64, u64)>,
    /// What the last failure said.
    pub(super) error: Option<String>,
}

/// Everything that was seen on the GPUs of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sightings {
    /// UUIDs of the GPUs.
    pub(super) gpus: Vec<String>,
    /// For each GPU, when it was looked at.
    pub(super) looks: Vec<Looks>,
    /// In the order in which they began.
    pub(super) list: Vec<Sighting>,
}

impl Looks {
    fn add(&mut self, t_ns: u64) {
        if self.count == 0 {
            self.first_ns = t_ns;
        } else if t_ns.saturating_sub(self.last_ns) > LONGEST_GAP_NS {
            self.gaps.push((self.last_ns, t_ns));
        }
        self.count += 1;
        self.last_ns = t_ns;
    }

    /// For how long nobody looked between `start_ns` and `end_ns`, in nanoseconds.
    pub(super) fn unwatched_ns(&self, start_ns: u64, end_ns: u64) -> u64 {
        if self.count == 0 {
            return end_ns.saturating_sub(start_ns);
        }
        let edges = [(0, self.first_ns), (self.last_ns, u64::MAX)];
        let unseen = self.gaps.iter().chain(&edges);
        unseen.map(|(from, to)| end_ns.min(*to).saturating_sub(start_ns.max(*from))).sum()
    }
}

impl Sightings {
    /// Nothing seen yet.
    pub(super) fn of(gpus: Vec<String>) -> Self {
        Self { looks: vec![Looks::default(); gpus.len()], gpus, list: Vec::new() }
    }

    /// Takes what one look at one GPU gave.
    pub(super) fn look(&mut self, gpu: usize, t_ns: u64, clients: &[GpuClient], processes: &impl Processes) {
        if self.list.len() >= SIGHTINGS {
            return self.failed(gpu, format!("more than {SIGHTINGS} processes came and went"));
        }
        let Some(looks) = self.looks.get_mut(gpu) else { return };
        looks.add(t_ns);
        let look = looks.count;
        for client in clients {
            self.see(gpu, look, t_ns, *client, processes);
        }
    }

    /// What is told of a stay, with whose it is.
    pub(super) fn record(&self, sighting: &Sighting, own: Option<bool>) -> GpuProcess {
        let facts = sighting.facts.as_ref();
        let longest = |facts: &ProcessFacts| facts.cgroups.lines().max_by_key(|path| path.len()).map(str::to_owned);
        GpuProcess {
            gpu: self.gpus.get(sighting.gpu).cloned().unwrap_or_default(),
            pid: sighting.pid,
            name: facts.map_or("unknown", |facts| facts.name.as_str()).to_owned(),
            uid: facts.and_then(|facts| facts.uid),
            cgroup: facts.and_then(longest),
            graphics: sighting.graphics,
            memory_bytes: sighting.memory_bytes,
            first_seen_ns: sighting.first_seen_ns,
            last_seen_ns: sighting.last_seen_ns,
            own,
        }
    }

    /// Takes why one look at one GPU gave nothing.
    pub(super) fn failed(&mut self, gpu: usize, error: String) {
        if let Some(looks) = self.looks.get_mut(gpu) {
            looks.error = Some(error);
        }
    }

    /// A process that was on the GPU a look before goes on; one that was away begins anew, and so does another one with the same id.
    fn see(&mut self, gpu: usize, look: u64, t_ns: u64, client: GpuClient, processes: &impl Processes) {
        let start_ticks = processes.start_ticks(client.pid);
        let goes_on = |known: &&mut Sighting| {
            let is_other =
                known.facts.as_ref().zip(start_ticks).is_some_and(|(facts, start)| facts.start_ticks != start);
            known.gpu == gpu && known.pid == client.pid && known.look + 1 >= look && !is_other
        };
        if let Some(known) = self.list.iter_mut().rev().find(goes_on) {
            known.last_seen_ns = t_ns;
            known.look = look;
            known.graphics |= client.graphics;
            known.memory_bytes = known.memory_bytes.max(client.memory_bytes);
            if known.facts.is_none() && start_ticks.is_some() {
                known.facts = processes.facts(client.pid);
            }
            return;
        }
        self.list.push(Sighting {
            gpu,
            pid: client.pid,
            graphics: client.graphics,
            memory_bytes: client.memory_bytes,
            first_seen_ns: t_ns,
            last_seen_ns: t_ns,
            facts: start_ticks.and_then(|_| processes.facts(client.pid)),
            look,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Looks, ProcessFacts, Processes, Sightings};
    use crate::host::nvml::GpuClient;

    /// Processes with their start times.
    struct Table(HashMap<u32, u64>);

    impl Processes for Table {
        fn start_ticks(&self, pid: u32) -> Option<u64> {
            self.0.get(&pid).copied()
        }

        fn facts(&self, pid: u32) -> Option<ProcessFacts> {
            Some(ProcessFacts { start_ticks: self.start_ticks(pid)?, ..ProcessFacts::default() })
        }
    }

    fn client(pid: u32, memory_bytes: u64) -> GpuClient {
        GpuClient { pid, memory_bytes: Some(memory_bytes), graphics: false }
    }

    /// Looks at one GPU, 250 ms apart; each names a process with its start time, 0 for one that cannot be read.
    fn stays(looks: &[Option<(u32, u64)>]) -> Vec<(u64, u64, Option<u64>)> {
        let mut sightings = Sightings::of(vec!["GPU-a".into()]);
        for (t, look) in looks.iter().enumerate() {
            let known = look.filter(|(_, start)| *start > 0);
            let clients: Vec<_> = look.iter().map(|(pid, _)| client(*pid, 1)).collect();
            sightings.look(0, 250 * t as u64, &clients, &Table(known.into_iter().collect()));
        }
        let start = |facts: &Option<ProcessFacts>| facts.as_ref().map(|facts| facts.start_ticks);
        sightings.list.iter().map(|s| (s.first_seen_ns, s.last_seen_ns, start(&s.facts))).collect()
    }

    #[test]
    fn a_stay_goes_from_first_to_last_sight() {
        assert_eq!(stays(&[None, Some((7, 5)), Some((7, 5)), None]), [(250, 500, Some(5))]);
    }

    #[test]
    fn who_was_away_begins_anew() {
        let expected = [(0, 0, Some(5)), (500, 500, Some(5))];
        assert_eq!(stays(&[Some((7, 5)), None, Some((7, 5))]), expected);
    }

    #[test]
    fn a_reused_id_is_another_process() {
        assert_eq!(stays(&[Some((7, 5)), Some((7, 6))]), [(0, 0, Some(5)), (250, 250, Some(6))]);
    }

    #[test]
    fn a_process_that_is_ending_is_still_itself_and_one_never_read_is_unknown() {
        assert_eq!(stays(&[Some((7, 5)), Some((7, 0))]), [(0, 250, Some(5))]);
        assert_eq!(stays(&[Some((7, 0)), Some((7, 0))]), [(0, 250, None)]);
        assert_eq!(stays(&[Some((7, 0)), Some((7, 5))]), [(0, 250, Some(5))]);
    }

    #[test]
    fn memory_is_the_most_that_was_seen_and_contexts_of_both_kinds_are_one_stay() {
        let mut sightings = Sightings::of(vec!["GPU-a".into(), "GPU-b".into()]);
        let table = Table([(7, 5)].into());
        sightings.look(1, 0, &[client(7, 100), GpuClient { graphics: true, ..client(7, 10) }], &table);
        sightings.look(1, 1, &[client(7, 50)], &table);
        let [stay] = &sightings.list[..] else { panic!("{sightings:?}") };
        assert_eq!((stay.gpu, stay.memory_bytes, stay.graphics), (1, Some(100), true));
    }

    #[test]
    fn times_without_a_look_are_known() {
        const S: u64 = 1_000_000_000;
        let mut looks = Looks::default();
        assert_eq!(looks.unwatched_ns(10 * S, 20 * S), 10 * S);
        for t in [11 * S, 12 * S, 14 * S, 15 * S] {
            looks.add(t);
        }
        assert_eq!(looks.unwatched_ns(11 * S, 15 * S), 2 * S);
        assert_eq!(looks.unwatched_ns(10 * S, 13 * S), 2 * S);
        assert_eq!(looks.unwatched_ns(14 * S, 16 * S), S);
        assert_eq!(looks.unwatched_ns(14 * S, 15 * S), 0);
    }
}

//! Checking the driver's records against the workload. The agent believes none of them.

use llem_protocol::{FailureClass, PassRecord, RequestRecord};

use crate::fault::Fault;
use crate::workload::Asked;

/// Takes the records of the window one by one and refuses the first that cannot be true.
pub(crate) struct Ledger<'a> {
    asked: &'a [Asked],
    ignore_eos: bool,
    passes: &'a [PassRecord],
    seen: Vec<bool>,
    records: Vec<RequestRecord>,
}

impl<'a> Ledger<'a> {
    /// An empty ledger for the window's passes.
    pub(crate) fn new(asked: &'a [Asked], ignore_eos: bool, passes: &'a [PassRecord]) -> Self {
        let seen = vec![false; asked.len() * passes.len()];
        Self { asked, ignore_eos, passes, seen, records: Vec::new() }
    }

    /// Takes one record.
    pub(crate) fn add(&mut self, record: RequestRecord) -> Result<(), Fault> {
        let name = format!("record of request {} in pass {}", record.index, record.pass);
        let (Some(place), Some(index)) = (pass_place(self.passes, record.pass), usize::try_from(record.index).ok())
        else {
            return Err(Fault::protocol(format!("{name}: the window has no such pass")));
        };
        let (Some(pass), Some(asked)) = (self.passes.get(place), self.asked.get(index)) else {
            return Err(Fault::protocol(format!("{name}: the workload has {} requests", self.asked.len())));
        };
        check_stamps(&record, pass).map_err(|text| Fault::protocol(format!("{name}: {text}")))?;
        check_counts(&record, *asked, self.ignore_eos)
            .map_err(|text| Fault::new(FailureClass::WrongWork, format!("{name}: {text}")))?;
        match self.seen.get_mut(place * self.asked.len() + index) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(Fault::protocol(format!("{name} was sent twice"))),
        }
        self.records.push(record);
        Ok(())
    }

    /// The complete records, when the driver says that it has sent `announced` of them.
    pub(crate) fn close(self, announced: u64) -> Result<Vec<RequestRecord>, Fault> {
        let received = self.records.len();
        if announced != received as u64 {
            return Err(Fault::protocol(format!("the driver announced {announced} records and sent {received}")));
        }
        let requests = self.asked.len();
        let missing = self.seen.iter().position(|seen| !seen);
        match missing.and_then(|place| Some((place % requests, self.passes.get(place / requests)?))) {
            None => Ok(self.records),
            Some((index, pass)) => {
                let text = format!("request {index} has no record in pass {} of the window", pass.pass);
                Err(Fault::new(FailureClass::WrongWork, text))
            }
        }
    }
}

/// Where the pass of this number stands in the window, whose passes are numbered one after the other. A window may
/// have tens of thousands of passes, so nothing is searched.
pub(crate) fn pass_place(passes: &[PassRecord], number: u32) -> Option<usize> {
    let place = usize::try_from(number.checked_sub(passes.first()?.pass)?).ok()?;
    passes.get(place).filter(|pass| pass.pass == number).map(|_| place)
}

fn check_stamps(record: &RequestRecord, pass: &PassRecord) -> Result<(), String> {
    if record.token_ns.len() != record.output_ids.len() {
        return Err(format!("{} stamps for {} tokens", record.token_ns.len(), record.output_ids.len()));
    }
    let stamps = [record.submit_ns].into_iter().chain(record.token_ns.iter().copied());
    let mut last = pass.start_ns;
    for stamp in stamps {
        if stamp < last || stamp > pass.end_ns {
            let (start_ns, end_ns) = (pass.start_ns, pass.end_ns);
            return Err(format!("stamp {stamp} after {last} in the pass from {start_ns} to {end_ns} ns"));
        }
        last = stamp;
    }
    Ok(())
}

fn check_counts(record: &RequestRecord, asked: Asked, ignore_eos: bool) -> Result<(), String> {
    if record.prompt_tokens != asked.prompt_tokens {
        return Err(format!("{} prompt tokens, asked {}", record.prompt_tokens, asked.prompt_tokens));
    }
    let (found, limit) = (record.output_ids.len(), asked.output_tokens as usize);
    if found > limit || (ignore_eos && found != limit) {
        let relation = if ignore_eos { "exactly" } else { "at most" };
        return Err(format!("{found} generated tokens, asked {relation} {limit}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const ASKED: [Asked; 2] =
        [Asked { prompt_tokens: 3, output_tokens: 2 }, Asked { prompt_tokens: 1, output_tokens: 2 }];

    fn pass(pass: u32) -> PassRecord {
        let start_ns = u64::from(pass) * 100;
        PassRecord { pass, start_ns, end_ns: start_ns + 100, prompt_tokens: 4, output_tokens: 4 }
    }

    fn record(pass: u32, index: u64) -> RequestRecord {
        let start = u64::from(pass) * 100;
        RequestRecord {
            pass,
            index,
            batch: None,
            prompt_tokens: if index == 0 { 3 } else { 1 },
            submit_ns: start + 1,
            token_ns: vec![start + 10, start + 10],
            output_ids: vec![7, 8],
        }
    }

    fn refused(change: impl Fn(&mut RequestRecord), ignore_eos: bool) -> FailureClass {
        let passes = [pass(3), pass(4)];
        let mut changed = record(3, 0);
        change(&mut changed);
        Ledger::new(&ASKED, ignore_eos, &passes).add(changed).unwrap_err().class
    }

    #[test]
    fn a_complete_window_is_kept() {
        let passes = [pass(3), pass(4)];
        let mut ledger = Ledger::new(&ASKED, true, &passes);
        for (pass, index) in [(4, 1), (3, 0), (3, 1), (4, 0)] {
            ledger.add(record(pass, index)).unwrap();
        }
        assert_eq!(ledger.close(4).unwrap().len(), 4);
    }

    #[test]
    fn as_many_passes_as_a_tiny_model_makes_are_checked_in_no_time() {
        const PASSES: u32 = 150_000;
        let passes: Vec<PassRecord> = (3..3 + PASSES).map(pass).collect();
        let start = Instant::now();
        let mut ledger = Ledger::new(&ASKED[..1], true, &passes);
        // The last pass first: a search from the front would be at its worst.
        for number in (3..3 + PASSES).rev() {
            ledger.add(record(number, 0)).unwrap();
        }
        let records = ledger.close(u64::from(PASSES)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(records.len(), PASSES as usize);
    }

    #[test]
    fn a_pass_stands_where_its_number_says() {
        let passes = [pass(3), pass(4)];
        assert_eq!([2, 3, 4, 5].map(|number| pass_place(&passes, number)), [None, Some(0), Some(1), None]);
        assert_eq!(pass_place(&[], 0), None);
    }

    #[test]
    fn other_work_than_asked_is_refused() {
        let fewer = |record: &mut RequestRecord| {
            record.token_ns.pop();
            record.output_ids.pop();
        };
        let padded = |record: &mut RequestRecord| {
            record.token_ns.push(350);
            record.output_ids.push(0);
        };
        assert_eq!(refused(fewer, true), FailureClass::WrongWork);
        assert_eq!(refused(padded, true), FailureClass::WrongWork);
        assert_eq!(refused(padded, false), FailureClass::WrongWork);
        assert_eq!(refused(|record| record.prompt_tokens = 4, true), FailureClass::WrongWork);
        let passes = [pass(3)];
        let mut short = record(3, 0);
        fewer(&mut short);
        assert_eq!(Ledger::new(&ASKED, false, &passes).add(short), Ok(()));
    }

    #[test]
    fn records_that_cannot_be_true_break_the_protocol() {
        let protocol = FailureClass::Protocol;
        assert_eq!(refused(|record| record.index = 2, true), protocol);
        assert_eq!(refused(|record| record.pass = 2, true), protocol);
        assert_eq!(refused(|record| record.submit_ns = 299, true), protocol);
        assert_eq!(refused(|record| record.token_ns = vec![320, 319], true), protocol);
        assert_eq!(refused(|record| record.token_ns = vec![320, 401], true), protocol);
        assert_eq!(refused(|record| record.token_ns = vec![320], true), protocol);
    }

    #[test]
    fn doubles_gaps_and_wrong_announcements_are_refused() {
        let passes = [pass(3)];
        let mut ledger = Ledger::new(&ASKED, true, &passes);
        ledger.add(record(3, 1)).unwrap();
        assert_eq!(ledger.add(record(3, 1)).unwrap_err().class, FailureClass::Protocol);
        let gap = ledger.close(1).unwrap_err();
        assert_eq!(gap.class, FailureClass::WrongWork);
        assert!(gap.message.contains("request 0"), "{gap}");
        assert_eq!(Ledger::new(&ASKED, true, &passes).close(1).unwrap_err().class, FailureClass::Protocol);
    }
}

use llem_protocol::RequestRecord;

use super::{Asked, check_work};

fn record(pass: u32, index: u64, prompt_tokens: u32, ids: &[u32]) -> RequestRecord {
    let token_ns = vec![1; ids.len()];
    RequestRecord { pass, index, batch: None, prompt_tokens, submit_ns: 0, token_ns, output_ids: ids.to_vec() }
}

#[test]
fn work_that_was_not_asked_is_named_with_both_numbers() {
    let asked = [Asked { prompt_tokens: 3, output_tokens: 2 }, Asked { prompt_tokens: 5, output_tokens: 4 }];
    let good = [record(1, 1, 5, &[1; 4]), record(1, 0, 3, &[1; 2]), record(2, 0, 3, &[1; 2]), record(2, 1, 5, &[1; 4])];
    check_work(&asked, 2, &good, true).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<RequestRecord>), exact, expected: &str| {
        let mut records = good.to_vec();
        change(&mut records);
        assert_eq!(check_work(&asked, 2, &records, exact).unwrap_err().to_string(), expected);
    };
    refused(&|r| r[3].prompt_tokens = 6, true, "request 1 in pass 2: 6 prompt tokens, asked 5");
    refused(&|r| r[3].output_ids.truncate(3), true, "request 1 in pass 2: 3 generated tokens, asked exactly 4");
    refused(&|r| r[3].output_ids.push(1), false, "request 1 in pass 2: 5 generated tokens, asked at most 4");
    refused(&|r| r[3].index = 2, true, "request 2 in pass 2: the workload has 2 requests");
    refused(&|r| r[3].pass = 1, true, "request 1 in pass 1: recorded twice");
    refused(&|r| drop(r.pop()), true, "3 records for 2 passes of 2 requests");
    let mut short = good.to_vec();
    short[3].output_ids.pop();
    check_work(&asked, 2, &short, false).unwrap();
}

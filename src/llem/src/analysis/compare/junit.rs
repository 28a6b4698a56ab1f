//! JUnit XML: one test case for each rule and experiment. A rule that fails is a failure, one that could not be decided an error.

use std::fmt::Write;

use super::record::{RuleCheck, RuleOutcome, StudyComparison};
use super::text::{shown, xml};

/// The rules of a comparison as a test report.
pub fn junit(comparison: &StudyComparison) -> String {
    let count = |outcome| comparison.rules.iter().filter(|check| check.outcome == outcome).count();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"0\"",
        comparison.rules.len(),
        count(RuleOutcome::Failed),
        count(RuleOutcome::Undecided)
    );
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "<testsuites name=\"llem compare\" {counts}>");
    let _ = writeln!(text, "  <testsuite name=\"llem compare\" {counts}>");
    for check in &comparison.rules {
        case(&mut text, check);
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

fn case(text: &mut String, check: &RuleCheck) {
    let open = format!("    <testcase classname=\"{}\" name=\"{}\"", xml(&shown(&check.experiment)), xml(&check.rule));
    let said = xml(&check.in_words());
    let _ = match check.outcome {
        RuleOutcome::Passed => writeln!(text, "{open}>\n      <system-out>{said}</system-out>\n    </testcase>"),
        RuleOutcome::Failed => {
            writeln!(text, "{open}>\n      <failure type=\"rule\" message=\"{said}\">{said}</failure>\n    </testcase>")
        }
        RuleOutcome::Undecided => {
            writeln!(
                text,
                "{open}>\n      <error type=\"undecided\" message=\"{said}\">{said}</error>\n    </testcase>"
            )
        }
    };
}

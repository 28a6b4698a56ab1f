use proptest::prelude::*;

use super::{Relation, Rule, Rules};
use crate::analysis::compare::Quantity;

fn error(text: &str) -> (usize, String) {
    let error = text.parse::<Rule>().unwrap_err();
    (error.column, error.message)
}

#[test]
fn rules_are_read() {
    let rule: Rule = "energy_per_output_token_j > +3%".parse().unwrap();
    assert_eq!(rule.to_string(), "energy_per_output_token_j > +3 %");
    let rule: Rule = " output_tokens_per_s<-2.5 % ".parse().unwrap();
    assert_eq!((rule.relation, rule.threshold_percent), (Relation::Below, -2.5));
    let rule: Rule = "ttft_ms > 0%".parse().unwrap();
    assert_eq!(rule.to_string(), "ttft_p50_ms > 0 %");
    assert_eq!("e2e_p99_ms>−1%".parse::<Rule>().unwrap().to_string(), "e2e_p99_ms > -1 %");
}

#[test]
fn mistakes_are_told_with_their_place() {
    assert_eq!(
        error("energy_per_ouput_token_j > 3%"),
        (1, "no figure is called `energy_per_ouput_token_j`; did you mean `energy_per_output_token_j`?".to_owned())
    );
    assert!(error("speed > 3%").1.contains("there are energy_per_output_token_j, "));
    assert!(error("energy_j > 3%").1.contains("is of the whole window"));
    assert_eq!(error("ttft_ms 3%").0, 9);
    assert!(error("ttft_ms >= 3%").1.contains("no `=`"));
    assert_eq!(error("ttft_ms > three"), (11, "a percentage is expected, as `+3%`".to_owned()));
    assert!(error("ttft_ms > 3").1.contains("`%` is expected"));
    assert_eq!(error("ttft_ms > 3% or so").0, 14);
    assert!(error("ttft_ms > -100%").1.contains("above -100%"));
    assert!(error("").1.contains("a figure is expected"));
    assert_eq!(error(&"x".repeat(10_000)).0, 1);
    let shown = "ttft_ms ? 3%".parse::<Rule>().unwrap_err().to_string();
    assert_eq!(shown, "ttft_ms ? 3%\n        ^ `>` or `<` is expected");
}

#[test]
fn none_stands_alone() {
    let parse = |texts: &[&str]| Rules::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    assert_eq!(parse(&[]), Ok(Rules::Default));
    assert_eq!(parse(&["none"]), Ok(Rules::None));
    let twice = parse(&["ttft_ms > 3%", "ttft_p50_ms > +3 %", "ttft_ms > 4%"]);
    assert!(matches!(twice, Ok(Rules::Given(rules)) if rules.len() == 2));
    assert!(parse(&["none", "ttft_ms > 3%"]).unwrap_err().message.contains("beside rules"));
}

proptest! {
    #[test]
    fn no_text_is_a_panic(text in "\\PC{0,60}") {
        let _ = text.parse::<Rule>().map_err(|error| error.to_string());
    }

    #[test]
    fn what_is_shown_is_read_again(index in 0..Quantity::ALL.len(), above: bool, percent in -99.0f64..1e5) {
        let relation = if above { Relation::Above } else { Relation::Below };
        let rule = Rule { quantity: Quantity::ALL[index], relation, threshold_percent: percent };
        prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
    }
}

use super::{duration, of_experiments};

#[test]
fn durations_are_short() {
    assert_eq!([0.4, 45.0, 200.0, 7500.0].map(duration), ["0 s", "45 s", "3 min 20 s", "2 h 5 min"]);
}

#[test]
fn neighbours_are_said_as_ranges() {
    assert_eq!(of_experiments(&[1, 3, 4, 5, 9]), "experiments 1, 3–5, 9: ");
    assert_eq!((of_experiments(&[2]), of_experiments(&[])), ("experiment 2: ".to_owned(), String::new()));
}

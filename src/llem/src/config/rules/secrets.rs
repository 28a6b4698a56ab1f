//! Access tokens in what goes to an engine verbatim: it would be in `job.json`, in results and in every copy of the study.

use std::path::Path;

use serde_json::Value;

use super::super::backend::Extra;
use super::super::check::Finding;
use super::super::document::pointer_segment;
use super::super::experiment::ExperimentConfig;
use super::super::problem::{Location, Problem};

/// Names of settings, in lower case, that hold secrets and nothing else.
const NAMES: [&str; 11] = [
    "token",
    "hf_token",
    "use_auth_token",
    "auth_token",
    "access_token",
    "huggingface_token",
    "hugging_face_hub_token",
    "api_key",
    "hf_api_key",
    "password",
    "secret",
];

/// What to do about it.
const REMEDY: &str = "remove it, and take the token back if the file was shared; llem downloads models itself, with HF_TOKEN of its own \
     environment or the token file (`hf auth login`), and engines need none";

/// How tokens of Hugging Face begin, and how many letters and digits follow at least.
const HUB_TOKEN: (&str, usize) = ("hf_", 20);

pub(super) fn rules(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    let extras: [(&str, Option<&Extra>); 3] = [
        ("pytorch", config.pytorch.as_ref().map(|section| &section.extra)),
        ("vllm", config.vllm.as_ref().map(|section| &section.extra)),
        ("tensorrt", config.tensorrt.as_ref().map(|section| &section.extra)),
    ];
    for (section, extra) in extras {
        for (key, value) in extra.into_iter().flatten() {
            look(&format!("/{section}/extra/{}", pointer_segment(key)), key, value, findings);
        }
    }
}

fn look(pointer: &str, name: &str, value: &Value, findings: &mut Vec<Finding>) {
    // `token: false` asks for no token.
    let is_named = NAMES.contains(&name.to_lowercase().as_str()) && value.as_str().is_some_and(|text| !text.is_empty());
    if is_named || value.as_str().is_some_and(holds_hub_token) {
        let finding = Finding::value(pointer, "looks like an access token, which results and logs would repeat");
        findings.push(finding.secret().hint(REMEDY));
        return;
    }
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| look(&format!("{pointer}/{at}"), name, item, findings));
        }
        Value::Object(map) => {
            map.iter().for_each(|(key, item)| {
                look(&format!("{pointer}/{}", pointer_segment(key)), key, item, findings);
            });
        }
        _ => {}
    }
}

/// Whether a text has such a token anywhere: in an address, behind `Bearer`, in a comment.
pub(crate) fn holds_hub_token(text: &str) -> bool {
    let (prefix, least) = HUB_TOKEN;
    let is_token = |word: &str| {
        let rest = word.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.len() >= least && rest.chars().all(|c| c.is_ascii_alphanumeric()))
    };
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(is_token)
}

/// Tokens in places that no field accounts for: comments, names, keys. The file is copied into the study's directory as it is.
pub(crate) fn in_text(file: &Path, text: &str, overrides: &[String]) -> Option<Problem> {
    const WHAT: &str = "looks like an access token, which results would repeat";
    if let Some((at, line)) = text.lines().enumerate().find(|(_, line)| holds_hub_token(line)) {
        let before = line.split(HUB_TOKEN.0).next().unwrap_or_default();
        let column = before.chars().count() + 1;
        let location = Location { file: file.to_owned(), line: at + 1, column, source_line: String::new() };
        return Some(Problem::new("", WHAT).at(Some(location)).hint(REMEDY));
    }
    let is_set = overrides.iter().any(|text| holds_hub_token(text));
    is_set.then(|| Problem::new("--set", WHAT).hint(REMEDY))
}

#[cfg(test)]
mod tests {
    use super::{holds_hub_token, in_text};

    #[test]
    fn a_token_is_found_wherever_it_stands() {
        let token = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123";
        for text in
            [token.to_owned(), format!("Bearer {token}"), format!("https://u:{token}@host/"), format!("# {token}.")]
        {
            assert!(holds_hub_token(&text), "{text}");
        }
        let problem = |text: &str, set: &str| in_text("s.yaml".as_ref(), text, &[set.to_owned()]);
        assert_eq!(problem("name: x\n", &format!("name={token}")).unwrap().path, "--set");
        let place = problem(&format!("name: x\n# {token}\n"), "name=y").unwrap().location.unwrap();
        assert_eq!((place.line, place.column, place.source_line.as_str()), (2, 3, ""));
        assert_eq!(problem("name: x\n", "name=y"), None);
        for text in ["hf_overrides", "org/hf_internal_testing_tiny_random_llama", "hf_short", "self_hf_token"] {
            assert!(!holds_hub_token(text), "{text}");
        }
    }
}

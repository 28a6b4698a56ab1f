//! What an image can run: every rule says what is wrong, what the image has, and what to do.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::floor::{Glibc, glibc_version};
use crate::config::{Backend, ExperimentConfig, TensorrtEngine};
use crate::runner::docker::ImageFacts;

/// The oldest Python that the drivers run on.
const OLDEST_PYTHON: (u32, u32) = (3, 10);

/// The first TensorRT-LLM without the TensorRT engine for sure; release candidates of 1.3 lost it at some point.
const WITHOUT_ENGINE: (u32, u32) = (1, 4);

/// Something that an image cannot do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// Dotted key that asks for it.
    pub(super) key: String,
    /// Whether the key's value is wrong (`Some`) or that it is there at all.
    pub(super) value: Option<Value>,
    /// What is wrong, as a fragment in lower case.
    pub(super) message: String,
    /// What to do.
    pub(super) hint: String,
}

/// One experiment's config beside what its image is.
pub(super) struct Subject<'a> {
    pub(super) config: &'a ExperimentConfig,
    /// Reference of the image.
    pub(super) image: &'a str,
    pub(super) facts: &'a ImageFacts,
    /// What the agent needs.
    pub(super) glibc_floor: Option<Glibc>,
    /// Architecture of the agent, as engines name it.
    pub(super) architecture: &'a str,
}

impl Subject<'_> {
    /// Why the image cannot run the experiment; empty when nothing is known against it. What keeps anything from starting hides the rest.
    pub(super) fn obstacles(&self) -> Vec<Obstacle> {
        let first = [Self::architecture, Self::c_library, Self::agent, Self::interpreter, Self::python, Self::engine];
        if let Some(obstacle) = first.iter().find_map(|rule| rule(self)) {
            return vec![obstacle];
        }
        match self.config.backend {
            Backend::Vllm => self.vllm_options(),
            Backend::Tensorrt => self.tensorrt(),
            Backend::Candle | Backend::Pytorch => Vec::new(),
        }
    }

    fn backend(&self) -> Backend {
        self.config.backend
    }

    /// The image as a whole is the obstacle.
    fn image(&self, message: String, hint: impl Into<String>) -> Obstacle {
        let key = format!("{}.image", self.backend());
        Obstacle { key, value: Some(Value::from(self.image)), message, hint: hint.into() }
    }

    fn architecture(&self) -> Option<Obstacle> {
        let (found, own) = (self.facts.architecture.as_str(), self.architecture);
        (!found.is_empty() && found != own).then(|| {
            let message = format!("`{}` is an image for {found}, and this machine's agent is for {own}", self.image);
            self.image(message, "name the tag or digest of the same image for this machine's architecture")
        })
    }

    fn c_library(&self) -> Option<Obstacle> {
        let libc = self.facts.versions.libc.as_deref()?;
        let hint = "use an image of a newer distribution (Ubuntu 22.04, Debian 12 or later), or an agent that was built on an older one";
        match (glibc_version(libc), self.glibc_floor) {
            (Some(found), Some(floor)) if found < floor => {
                let message =
                    format!("`{}` has {libc}, and llem's agent needs glibc {}.{}", self.image, floor.0, floor.1);
                Some(self.image(message, hint))
            }
            (None, Some(_)) if libc == "musl" => {
                Some(self.image(format!("`{}` has the C library musl, and llem's agent needs glibc", self.image), hint))
            }
            _ => None,
        }
    }

    fn agent(&self) -> Option<Obstacle> {
        let problem = self.facts.agent.problem.as_deref()?;
        let message = format!("llem's agent does not start in `{}`: {problem}", self.image);
        Some(self.image(message, "use an image with the GNU C library for this machine's architecture"))
    }

    fn interpreter(&self) -> Option<Obstacle> {
        let problem = self.facts.problem.as_deref()?;
        let message = format!("no Python answers in `{}`: {problem}", self.image);
        let backend = self.backend();
        let hint = format!(
            "set `python: {{{backend}: PATH}}` in the user config to the Python of the image that has the engine"
        );
        Some(self.image(message, hint))
    }

    fn python(&self) -> Option<Obstacle> {
        let (versions, (major, minor)) = (&self.facts.versions, OLDEST_PYTHON);
        let found = versions.python.as_deref()?;
        (release(found)? < OLDEST_PYTHON).then(|| {
            let place = versions.interpreter.as_deref().unwrap_or("its Python");
            let message =
                format!("`{}` has Python {found} ({place}), and llem's drivers need {major}.{minor}", self.image);
            let backend = self.backend();
            self.image(
                message,
                format!(
                    "use a newer image, or name its newer Python: `python: {{{backend}: PATH}}` in the user config"
                ),
            )
        })
    }

    /// The engine itself must be there.
    fn engine(&self) -> Option<Obstacle> {
        let versions = &self.facts.versions;
        let (missing, what, hint) = match self.backend() {
            Backend::Candle => return None,
            Backend::Vllm => {
                (versions.vllm.is_none(), "vLLM", "use an image with vLLM, such as `vllm/vllm-openai:TAG`".to_owned())
            }
            Backend::Tensorrt => {
                let hint = "use an image with TensorRT-LLM, such as `nvcr.io/nvidia/tensorrt-llm/release:1.2.1`";
                (versions.tensorrt_llm.is_none(), "TensorRT-LLM", hint.to_owned())
            }
            Backend::Pytorch if versions.torch.is_none() => {
                (true, "PyTorch", "use an image with PyTorch and transformers".to_owned())
            }
            Backend::Pytorch => (versions.transformers.is_none(), "transformers", self.how_to_add_transformers()),
        };
        missing.then(|| {
            let place = versions.interpreter.as_deref().unwrap_or("its Python");
            let message = format!("`{}` has no {what} ({place} has {})", self.image, self.engines());
            self.image(message, hint)
        })
    }

    /// Images of PyTorch's makers have PyTorch alone.
    fn how_to_add_transformers(&self) -> String {
        format!(
            "make an image that has it: `docker build -t llem/pytorch --build-arg BASE={} -f images/pytorch/Dockerfile .`; or \
             install it into a directory (`pip install --target /data/site transformers accelerate`), and name that in the user config \
             under `mounts`, with `env: {{PYTHONPATH: /data/site}}`",
            self.image
        )
    }

    /// What the image has of what backends run on.
    fn engines(&self) -> String {
        let names = ["vllm", "tensorrt_llm", "transformers", "torch"];
        let known = self.facts.versions.named().into_iter().filter(|(name, _)| names.contains(name));
        let found: Vec<_> = known.filter_map(|(name, version)| Some(format!("{name} {}", version?))).collect();
        if found.is_empty() { "none of the engines".to_owned() } else { found.join(", ") }
    }

    /// Arguments that the driver would hand to `EngineArgs`, which this version may not know.
    fn vllm_options(&self) -> Vec<Obstacle> {
        let Some(known) = self.facts.options_of("vllm", "EngineArgs").filter(|known| !known.is_empty()) else {
            return Vec::new();
        };
        let given = vllm_arguments(&self.config.engine_options(), &self.config.extra());
        let unknown = given.into_iter().filter(|(_, argument)| !known.contains(argument));
        unknown
            .map(|(key, argument)| self.option("vLLM", self.facts.versions.vllm.as_deref(), &key, &argument, known))
            .collect()
    }

    fn option(&self, engine: &str, version: Option<&str>, key: &str, argument: &str, known: &[String]) -> Obstacle {
        let near = crate::config::nearest(argument, known.iter().map(String::as_str));
        let version = version.unwrap_or("of unknown version");
        let hint = near.map_or_else(
            || format!("remove it, or use an image whose {engine} has it"),
            |near| format!("this version has `{near}`; remove the key, use `extra: {{{near}: …}}`, or another image"),
        );
        let message = format!("{engine} {version} of `{}` has no option `{argument}`", self.image);
        Obstacle { key: key.to_owned(), value: None, message, hint }
    }

    /// The engine that is compiled went away with version 1.3; its options went with it.
    fn tensorrt(&self) -> Vec<Obstacle> {
        let versions = &self.facts.versions;
        let classes = self.facts.options.get("tensorrt").filter(|classes| !classes.is_empty());
        let compiled =
            self.config.tensorrt.as_ref().and_then(|section| section.engine) == Some(TensorrtEngine::Tensorrt);
        let release = versions.tensorrt_llm.as_deref().and_then(release);
        let is_gone = classes.map_or(release >= Some(WITHOUT_ENGINE), |classes| !classes.contains_key("TrtLlmArgs"));
        if compiled && is_gone {
            let version = versions.tensorrt_llm.as_deref().unwrap_or("of unknown version");
            let message = format!("TensorRT-LLM {version} of `{}` no longer has the engine `tensorrt`", self.image);
            let hint = "set `tensorrt.engine: pytorch`, or use an image of version 1.2, the last with it, such as \
                 `nvcr.io/nvidia/tensorrt-llm/release:1.2.1`";
            let (key, value) = ("tensorrt.engine".to_owned(), Some(Value::from("tensorrt")));
            return vec![Obstacle { key, value, message, hint: hint.to_owned() }];
        }
        self.tensorrt_extra(if compiled { "TrtLlmArgs" } else { "TorchLlmArgs" })
    }

    /// Options that are passed verbatim.
    fn tensorrt_extra(&self, class: &str) -> Vec<Obstacle> {
        let fields = |class| self.facts.options_of("tensorrt", class).filter(|fields| !fields.is_empty());
        let (Some(own), Some(shared)) = (fields(class), fields("BaseLlmArgs")) else { return Vec::new() };
        let known: Vec<String> = own.iter().chain(shared).cloned().collect();
        let extra = self.config.extra();
        let unknown = extra.keys().filter(|name| !known.contains(name));
        let version = self.facts.versions.tensorrt_llm.as_deref();
        unknown
            .map(|name| self.option("TensorRT-LLM", version, &format!("tensorrt.extra.{name}"), name, &known))
            .collect()
    }
}

/// The section's keys with the arguments of vLLM that they become, as the driver (`images/vllm`) names them.
fn vllm_arguments(options: &Map<String, Value>, extra: &Map<String, Value>) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (name, value) in options {
        match (name.as_str(), value) {
            // Which device it is, the image decides.
            ("device", _) => {}
            ("compilation" | "speculative", _) => {
                found.insert((format!("vllm.{name}"), format!("{name}_config")));
            }
            ("lora", Value::Object(limits)) => {
                found.extend(limits.keys().map(|limit| (format!("vllm.lora.{limit}"), limit.clone())));
            }
            _ => {
                found.insert((format!("vllm.{name}"), name.clone()));
            }
        }
    }
    found.extend(extra.keys().map(|name| (format!("vllm.extra.{name}"), name.clone())));
    found
}

/// Major and minor of a version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests;

//! What an image is, as its own files and the engine tell.

use std::collections::BTreeMap;

use bollard::models::ImageInspect;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::client::{Engine, EngineError};
use crate::printable::printable;
use crate::runner::ImageSource;

/// Longest text that is kept of an image, in characters.
const TEXT_CHARS: usize = 512;

/// Most entries that are kept of one kind.
const ENTRIES: usize = 4096;

/// Everything that is known about an image without running its engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Content id (`sha256:…`).
    pub id: String,
    /// Registry digests (`repo@sha256:…`); empty for an image that never was in a registry.
    pub digests: Vec<String>,
    /// What a SIF file was made from; none for other images.
    #[serde(default)]
    pub source: Option<ImageSource>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Operating system as the engine names it, e.g. `linux`.
    pub os: String,
    /// Architecture as the engine names it, e.g. `amd64`.
    pub architecture: String,
    /// Size on disk in bytes.
    pub size_bytes: u64,
    /// Versions of what is in it.
    pub versions: ImageVersions,
    /// Options that its engines take: backend → class → fields.
    pub options: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// llem's agent when it is started in the image.
    pub agent: AgentStart,
    /// llem's own files that the image brings.
    pub baked: Baked,
    /// Name and version of the embedded backend's driver, in images that llem made for it.
    pub embedded: Option<(String, String)>,
    /// Why `versions` are not known, where they are not.
    pub problem: Option<String>,
}

/// Versions of what an image holds; null for what it lacks or does not tell. Read from files: no engine is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ImageVersions {
    /// PyTorch, with its build, e.g. `2.13.0+cu130`.
    pub torch: Option<String>,
    /// CUDA that PyTorch was built for; null for a build for processors.
    pub torch_cuda: Option<String>,
    /// Hugging Face transformers.
    pub transformers: Option<String>,
    /// Hugging Face accelerate.
    pub accelerate: Option<String>,
    /// Hugging Face PEFT.
    pub peft: Option<String>,
    /// vLLM.
    pub vllm: Option<String>,
    /// TensorRT-LLM.
    pub tensorrt_llm: Option<String>,
    /// TensorRT.
    pub tensorrt: Option<String>,
    /// CUDA toolkit of the image.
    pub cuda: Option<String>,
    /// cuDNN.
    pub cudnn: Option<String>,
    /// NCCL.
    pub nccl: Option<String>,
    /// Triton, the compiler.
    pub triton: Option<String>,
    /// FlashInfer.
    pub flashinfer: Option<String>,
    /// Python that the drivers are started with.
    pub python: Option<String>,
    /// Where that Python is.
    pub interpreter: Option<String>,
    /// C library, e.g. `glibc 2.36`.
    pub libc: Option<String>,
    /// Operating system, e.g. `Ubuntu 24.04.3 LTS`.
    pub os: Option<String>,
}

/// How llem's agent started in an image. Both null: it was not tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentStart {
    /// What it says of itself.
    pub version: Option<String>,
    /// Why it does not start.
    pub problem: Option<String>,
}

/// llem's files in an image that was made to hold them, as SHA-256.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Baked {
    /// `/llem/agent`.
    pub agent: Option<String>,
    /// Files of `/llem/driver` by name.
    pub driver: BTreeMap<String, Option<String>>,
}

impl Baked {
    /// Whether the image has exactly these scripts as its driver.
    pub(crate) fn has_driver<'a>(&self, mut files: impl Iterator<Item = (&'a str, &'a [u8])>) -> bool {
        files.all(|(name, content)| {
            let present = self.driver.get(name).and_then(Option::as_ref);
            present.is_some_and(|sha256| *sha256 == sha256_of(content))
        })
    }
}

impl Engine {
    /// What the engine tells of an image, or `None` when it does not have it.
    pub async fn image_facts(&self, reference: &str) -> Result<Option<ImageFacts>, EngineError> {
        Ok(self.image(reference).await?.as_ref().map(ImageFacts::of_image))
    }
}

/// SHA-256, hexadecimal.
pub(crate) fn sha256_of(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// What the probe script answers.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    versions: ImageVersions,
    #[serde(default)]
    options: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    #[serde(default)]
    agent: AgentStart,
    #[serde(default)]
    baked: Baked,
}

impl ImageFacts {
    /// What the engine knows of an image, without a container.
    pub(super) fn of_image(image: &ImageInspect) -> Self {
        let labels = image.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
        let labels = labels.into_iter().map(|(name, value)| (text(&name), text(&value)));
        Self {
            id: image.id.clone().unwrap_or_default(),
            digests: image.repo_digests.clone().unwrap_or_default(),
            labels: labels.take(ENTRIES).collect(),
            os: image.os.clone().unwrap_or_default(),
            architecture: image.architecture.clone().unwrap_or_default(),
            size_bytes: image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Adds the answer of the probe script. The image wrote it: texts are cut and made fit for a terminal.
    pub(super) fn add(&mut self, answer: Answer) {
        let short = |value: Option<String>| value.map(|value| text(&value));
        self.versions = answer.versions.map(text);
        self.options =
            answer.options.into_iter().take(ENTRIES).map(|(name, classes)| (name, bounded(classes))).collect();
        self.agent = AgentStart { version: short(answer.agent.version), problem: short(answer.agent.problem) };
        let driver = answer.baked.driver.into_iter().take(ENTRIES);
        self.baked = Baked { agent: answer.baked.agent, driver: driver.collect() };
    }

    /// The same with what the engine tells taken from `image`.
    pub(crate) fn with_identity_of(self, image: Self) -> Self {
        let Self { versions, options, agent, baked, embedded, problem, .. } = self;
        Self { versions, options, agent, baked, embedded, problem, ..image }
    }

    /// Fields of a class of options; `None` where the image does not tell.
    pub fn options_of(&self, backend: &str, class: &str) -> Option<&[String]> {
        self.options.get(backend)?.get(class).map(Vec::as_slice)
    }
}

fn bounded(classes: BTreeMap<String, Vec<String>>) -> BTreeMap<String, Vec<String>> {
    let names = |fields: Vec<String>| fields.iter().take(ENTRIES).map(|name| text(name)).collect();
    classes.into_iter().take(ENTRIES).map(|(class, fields)| (class, names(fields))).collect()
}

fn text(given: &str) -> String {
    printable(given).chars().take(TEXT_CHARS).collect()
}

impl ImageVersions {
    /// All versions with their names in results, in the order in which people look for them.
    pub fn named(&self) -> [(&'static str, Option<&str>); 17] {
        [
            ("vllm", self.vllm.as_deref()),
            ("tensorrt_llm", self.tensorrt_llm.as_deref()),
            ("transformers", self.transformers.as_deref()),
            ("torch", self.torch.as_deref()),
            ("torch_cuda", self.torch_cuda.as_deref()),
            ("tensorrt", self.tensorrt.as_deref()),
            ("cuda", self.cuda.as_deref()),
            ("cudnn", self.cudnn.as_deref()),
            ("nccl", self.nccl.as_deref()),
            ("triton", self.triton.as_deref()),
            ("flashinfer", self.flashinfer.as_deref()),
            ("accelerate", self.accelerate.as_deref()),
            ("peft", self.peft.as_deref()),
            ("python", self.python.as_deref()),
            ("interpreter", self.interpreter.as_deref()),
            ("libc", self.libc.as_deref()),
            ("os", self.os.as_deref()),
        ]
    }

    fn map(self, change: impl Fn(&str) -> String) -> Self {
        let each = |value: Option<String>| value.map(|value| change(&value));
        Self {
            torch: each(self.torch),
            torch_cuda: each(self.torch_cuda),
            transformers: each(self.transformers),
            accelerate: each(self.accelerate),
            peft: each(self.peft),
            vllm: each(self.vllm),
            tensorrt_llm: each(self.tensorrt_llm),
            tensorrt: each(self.tensorrt),
            cuda: each(self.cuda),
            cudnn: each(self.cudnn),
            nccl: each(self.nccl),
            triton: each(self.triton),
            flashinfer: each(self.flashinfer),
            python: each(self.python),
            interpreter: each(self.interpreter),
            libc: each(self.libc),
            os: each(self.os),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Baked, ImageFacts, sha256_of};

    #[test]
    fn what_an_image_writes_is_cut_and_made_printable() {
        let long = "x".repeat(2000);
        let answer = serde_json::json!({
            "versions": {"torch": "2.1\u{1b}[2J", "vllm": long, "unheard_of": "1"},
            "agent": {"version": "llem-agent 0.1.0"},
        });
        let mut facts = ImageFacts::default();
        facts.add(serde_json::from_value::<Answer>(answer).unwrap());
        assert_eq!(facts.versions.torch.as_deref(), Some("2.1\u{fffd}[2J"));
        assert_eq!(facts.versions.vllm.map(|text| text.len()), Some(512));
        assert_eq!(facts.versions.python, None);
    }

    #[test]
    fn an_answer_of_another_shape_is_refused() {
        for broken in [r#"{"versions": {"torch": 2}}"#, r#"{"options": {"vllm": ["a"]}}"#, r#"{"versions": "x"}"#] {
            assert!(serde_json::from_str::<Answer>(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_driver_counts_as_baked_when_every_file_is_the_same() {
        let files = [("driver.py", &b"a"[..]), ("llem_channel.py", b"b")];
        let baked = |names: &[(&str, &[u8])]| Baked {
            agent: None,
            driver: names.iter().map(|(name, content)| ((*name).to_owned(), Some(sha256_of(content)))).collect(),
        };
        assert!(baked(&files).has_driver(files.into_iter()));
        assert!(!baked(&files[..1]).has_driver(files.into_iter()));
        assert!(!baked(&[files[0], ("llem_channel.py", b"older")]).has_driver(files.into_iter()));
    }
}

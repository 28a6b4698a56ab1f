"""What an experiment asks of this backend, checked. Standard library only.

Every option is either done or refused by name; an absent one is left to the engine."""

import dataclasses
import re

from llem_channel import DriverError, existing_directory, model_directory, seed
from llem_sampling import sampling
from llem_section import Section, one_of

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
# Without `paged`: it is another loop than `generate` and gives no stamps.
CACHES = ("dynamic", "static", "offloaded", "offloaded_static", "quantized")
# Quantisation by the names of transformers, with underscores or not as its users write them.
QUANTIZATION = (
    *("bitsandbytes", "gptq", "awq", "hqq", "quanto", "torchao", "compressed-tensors", "fp8", "fbgemm_fp8", "mxfp4"),
    *("eetq", "aqlm", "higgs", "auto-round"),
)
# Arguments of `from_pretrained` that have a field of their own, by the field.
OWN_FIELDS = {
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "device_map": "pytorch.device_map",
    "attn_implementation": "pytorch.attn.implementation",
    "trust_remote_code": "pytorch.trust_remote_code",
    "low_cpu_mem_usage": "pytorch.low_cpu_mem_usage",
    "use_kernels": "pytorch.use_kernels",
    "experts_implementation": "pytorch.experts_implementation",
    "quantization_config": "pytorch.quantization",
}
# Arguments of `from_pretrained` that the driver itself needs.
DRIVERS_OWN = (
    *("config", "local_files_only", "output_loading_info", "pretrained_model_name_or_path", "state_dict"),
    # Weights at another place than the result names.
    *("subfolder", "revision", "gguf_file", "cache_dir", "force_download"),
)


@dataclasses.dataclass
class Compile:
    """The section `compile`; absent fields are the engine's."""

    enabled: bool | None
    mode: str | None
    backend: str | None
    fullgraph: bool | None
    dynamic: bool | None


@dataclasses.dataclass
class Speculation:
    """The section `speculative`: one of prompt lookup and a model that drafts."""

    prompt_lookup_num_tokens: int | None
    assistant_model: str | None
    num_assistant_tokens: int | None


@dataclasses.dataclass
class Lora:
    """The experiment's adapter."""

    directory: str
    merge_weights: bool


@dataclasses.dataclass
class Settings:
    """The settings of one experiment; `None` is the engine's default."""

    model: str
    dtype: str
    seed: int
    batch_size: int
    device_map: str | None
    attention: str | None
    compile: Compile | None
    cache: str | None
    max_cache_len: int | None
    use_cache: bool | None
    quantization: dict | None
    speculation: Speculation | None
    lora: Lora | None
    load: dict
    num_threads: int | None
    allow_tf32: bool | None
    cudnn_benchmark: bool | None
    cudnn_deterministic: bool | None
    deterministic_algorithms: bool | None
    sampling: dict
    extra: dict


def read(spec):
    """Checks an engine specification of the protocol."""
    if spec["backend"] != "pytorch":
        raise DriverError("invalid_config", f"this driver is of backend `pytorch`, not `{spec['backend']}`")
    top = Section("pytorch", spec["options"])
    attn, cache = top.section("attn"), top.section("cache")
    # Sharing layers over processors is another program: one process a processor.
    top.count("tensor_parallel_size", 1)
    settings = Settings(
        model=model_directory(spec["model"]),
        dtype=one_of("dtype", spec["dtype"], DTYPES),
        seed=seed(spec["random_seed"]),
        batch_size=top.count("batch_size", 65_536) or 1,
        device_map=_device_map(top.take("device_map")),
        attention=attn.choice("implementation", ATTENTION),
        compile=_compile(spec["options"].get("compile"), top.section("compile")),
        cache=cache.choice("implementation", CACHES),
        max_cache_len=cache.count("max_cache_len", 10_000_000),
        use_cache=cache.flag("use_cache"),
        quantization=_quantization(spec["options"].get("quantization"), top.section("quantization")),
        speculation=_speculation(spec["options"].get("speculative"), top.section("speculative")),
        lora=_lora(spec.get("lora")),
        load=_load(top),
        num_threads=top.count("num_threads", 4_096),
        allow_tf32=top.flag("allow_tf32"),
        cudnn_benchmark=top.flag("cudnn_benchmark"),
        cudnn_deterministic=top.flag("cudnn_deterministic"),
        deterministic_algorithms=top.flag("deterministic_algorithms"),
        sampling=sampling(spec["sampling"], "pytorch") or {},
        extra=_extra(spec["extra"]),
    )
    for section in (attn, cache, top):
        section.refuse_rest()
    return settings


def _compile(given, section):
    found = Compile(
        enabled=section.flag("enabled"),
        mode=section.choice("mode", ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")),
        backend=section.text("backend"),
        fullgraph=section.flag("fullgraph"),
        dynamic=section.flag("dynamic"),
    )
    section.refuse_rest()
    return None if given is None else found


def _quantization(given, section):
    """The section as the driver's own dictionary, without what is absent."""
    found = {
        "method": section.choice("method", QUANTIZATION) or "bitsandbytes",
        "load_in_8bit": section.flag("load_in_8bit"),
        "load_in_4bit": section.flag("load_in_4bit"),
        "bnb_4bit_quant_type": section.choice("bnb_4bit_quant_type", ("fp4", "nf4")),
        "bnb_4bit_compute_dtype": section.choice("bnb_4bit_compute_dtype", DTYPES[1:]),
        "bnb_4bit_use_double_quant": section.flag("bnb_4bit_use_double_quant"),
        "llm_int8_threshold": section.number("llm_int8_threshold"),
        "bits": section.count("bits", 8),
        "group_size": section.count("group_size", 65_536, least=-1),
    }
    section.refuse_rest()
    return None if given is None else {key: value for key, value in found.items() if value is not None}


def _speculation(given, section):
    found = Speculation(
        prompt_lookup_num_tokens=section.count("prompt_lookup_num_tokens", 1_024),
        assistant_model=section.text("assistant_model"),
        num_assistant_tokens=section.count("num_assistant_tokens", 1_024),
    )
    section.refuse_rest()
    if given is None:
        return None
    if (found.prompt_lookup_num_tokens is None) == (found.assistant_model is None):
        text = "`pytorch.speculative` needs either `prompt_lookup_num_tokens` or `assistant_model`"
        raise DriverError("invalid_config", text)
    if found.assistant_model is not None:
        existing_directory("assistant model", found.assistant_model)
    return found


def _lora(given):
    if given is None:
        return None
    section = Section("lora", given)
    found = Lora(directory=section.text("adapter"), merge_weights=section.flag("merge_weights") or False)
    section.refuse_rest()
    existing_directory("LoRA adapter", found.directory)
    return found


def _load(top):
    """Arguments of `from_pretrained` that are handed on as they are."""
    given = {
        "experts_implementation": top.text("experts_implementation"),
        "use_kernels": top.flag("use_kernels"),
        "trust_remote_code": top.flag("trust_remote_code"),
    }
    return {key: value for key, value in given.items() if value is not None}


def _device_map(value):
    if value is None or value in ("cpu", "auto"):
        return value
    if isinstance(value, str) and re.fullmatch(r"cuda(:[0-9]{1,4})?", value):
        return "cuda:0" if value == "cuda" else value
    known = "cpu, cuda:0 or another index, auto"
    raise DriverError("unsupported", f"`pytorch.device_map: {value}` is not done by the pytorch driver (done: {known})")


def _extra(extra):
    for key in extra:
        if key in OWN_FIELDS:
            text = f"`pytorch.extra.{key}` has a field of its own: `{OWN_FIELDS[key]}`"
            raise DriverError("invalid_config", text)
        if key in DRIVERS_OWN:
            raise DriverError("invalid_config", f"`pytorch.extra.{key}` is set by the driver itself; remove it")
    return extra

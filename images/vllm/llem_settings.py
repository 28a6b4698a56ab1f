"""What an experiment asks of this backend, as arguments of vLLM. Standard library only.

Every option is passed under its own name; whether this version of vLLM knows it is `llem_engine`'s business. An absent one is left to
vLLM, but for what would change the work: prefixes are not kept unless asked, because passes repeat their prompts."""

import dataclasses
import json
import os

from llem_channel import DriverError, model_directory, seed
from llem_sampling import sampling

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("cuda", "cpu")
# Options of the section that are arguments of the same name.
SAME_NAME = (
    *("tensor_parallel_size", "pipeline_parallel_size", "enable_expert_parallel", "distributed_executor_backend"),
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "kv_cache_dtype", "block_size", "cpu_offload_gb"),
    *("max_num_seqs", "max_num_batched_tokens", "max_model_len", "enforce_eager", "enable_chunked_prefill"),
    *("enable_prefix_caching", "async_scheduling", "scheduling_policy", "attention_backend", "quantization", "load_format"),
    *("optimization_level", "performance_mode", "disable_custom_all_reduce", "trust_remote_code"),
)
# Subsections and the argument that takes them whole.
WHOLE = {"compilation": "compilation_config", "speculative": "speculative_config"}
LORA_LIMITS = ("max_lora_rank", "max_loras")
# Arguments that the experiment has a field for outside of the section.
FIELDS_ELSEWHERE = {
    "model": "model",
    "hf_config_path": "model",
    "revision": "model",
    "dtype": "dtype",
    "seed": "random_seed",
    "enable_lora": "lora",
}
# Arguments that the driver itself needs, or with which a pass would not be what is asked.
DRIVERS_OWN = (
    *("tokenizer", "skip_tokenizer_init", "disable_log_stats", "generation_config", "override_generation_config", "stream_interval"),
    *("worker_extension_cls", "worker_cls", "runner", "convert", "data_parallel_size", "enable_return_routed_experts"),
)
# The rank that vLLM prepares for unless `max_lora_rank` says otherwise.
DEFAULT_LORA_RANK = 16


@dataclasses.dataclass
class Settings:
    """The settings of one experiment."""

    dtype: str
    seed: int
    device: str
    # Arguments of `EngineArgs`, and which key of the experiment each came from.
    arguments: dict
    keys: dict
    sampling: dict
    # Directory of the adapter.
    adapter: str | None

    @property
    def world_size(self):
        """Workers of the engine."""
        return self.arguments.get("tensor_parallel_size", 1) * self.arguments.get("pipeline_parallel_size", 1)


def read(spec):
    """Checks an engine specification of the protocol."""
    if spec["backend"] != "vllm":
        raise DriverError("invalid_config", f"this driver is of backend `vllm`, not `{spec['backend']}`")
    options = {key: value for key, value in spec["options"].items() if value is not None}
    device = options.pop("device", "cuda")
    _one_of("vllm.device", device, DEVICES)
    adapter = _adapter(spec.get("lora"))
    arguments, keys = _arguments(options, adapter)
    settings = Settings(
        dtype=_one_of("dtype", spec["dtype"], DTYPES),
        seed=seed(spec["random_seed"]),
        device=device,
        arguments=arguments,
        keys=keys,
        sampling=sampling(spec["sampling"], "vllm") or {"temperature": 0.0},
        adapter=adapter,
    )
    for key, value in _extra(spec["extra"]).items():
        arguments[key], keys[key] = value, f"vllm.extra.{key}"
    arguments.update(
        model=model_directory(spec["model"]),
        dtype=settings.dtype,
        # vLLM seeds NumPy, which takes 32 bits.
        seed=settings.seed % (1 << 32),
        skip_tokenizer_init=True,
        # As in `LLM`: the core's stamps come without.
        disable_log_stats=True,
        # The model's own file would bring defaults of sampling with it.
        generation_config="vllm",
    )
    arguments.setdefault("enable_prefix_caching", False)
    return settings


def _arguments(options, adapter):
    arguments, keys = {}, {}

    def put(argument, value, key):
        arguments[argument], keys[argument] = value, key

    for key in SAME_NAME:
        if key in options:
            put(key, options.pop(key), f"vllm.{key}")
    for key, argument in WHOLE.items():
        if key in options:
            put(argument, options.pop(key), f"vllm.{key}")
    limits = dict(options.pop("lora", {}))
    for key in LORA_LIMITS:
        if key in limits:
            put(key, limits.pop(key), f"vllm.lora.{key}")
    if adapter is not None:
        put("enable_lora", True, "lora")
    for key in [*options, *(f"lora.{key}" for key in limits)]:
        raise DriverError("unsupported", f"`vllm.{key}` is not done by the vllm driver; remove it")
    return arguments, keys


def _adapter(lora):
    if lora is None:
        return None
    if lora.get("merge_weights"):
        text = "`lora.merge_weights`: vLLM cannot merge adapters; merge it beforehand with PEFT and point `model:` to the result"
        raise DriverError("unsupported", text)
    return lora["adapter"]


def check_adapter(directory, rank_limit):
    """Refuses an adapter that vLLM would refuse only after the model is loaded."""
    path = os.path.join(directory, "adapter_config.json")
    try:
        with open(path, encoding="utf-8") as file:
            rank = json.load(file)["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DriverError("model_missing", f"the adapter has no readable {path}: {error!r}") from error
    if type(rank) is not int:
        raise DriverError("invalid_config", f"{path}: `r` is {rank!r}; it must be the adapter's rank, a whole number")
    if rank > rank_limit:
        text = f"the adapter has rank {rank}, and vLLM prepares for {rank_limit}; raise `vllm.lora.max_lora_rank`"
        raise DriverError("invalid_config", text)


def _one_of(name, value, known):
    if value in known:
        return value
    raise DriverError("unsupported", f"`{name}: {value}` is not done by the vllm driver (done: {', '.join(known)})")


def _extra(extra):
    whole = {argument: f"vllm.{key}" for key, argument in WHOLE.items()}
    limits = {key: f"vllm.lora.{key}" for key in LORA_LIMITS}
    own = {**{key: f"vllm.{key}" for key in SAME_NAME}, **whole, **limits, **FIELDS_ELSEWHERE}
    for key in extra:
        if key in own:
            raise DriverError("invalid_config", f"`vllm.extra.{key}` has a field of its own: `{own[key]}`")
        if key in DRIVERS_OWN:
            raise DriverError("invalid_config", f"`vllm.extra.{key}` is set by the driver itself; remove it")
        if key == "hf_overrides":
            text = "`vllm.extra.hf_overrides` changes the model's description, and the result would name another model than was measured"
            raise DriverError("invalid_config", f"{text}; change `config.json` in a copy of the model, and point `model:` to that")
    return extra

"""What an experiment asks of this backend, as the arguments of `LLM(...)`. Standard library only.

The arguments are a tree, e.g. `{"kv_cache_config": {"max_tokens": 4096}}`; `llem_arguments` makes the engine's own objects of it. An
option goes to its argument or is refused by name; an absent one is left to the engine, which checks values. The one exception are blocks
of earlier prompts: every pass has the same prompts, so unless asked they are not kept."""

import dataclasses

from llem_channel import DriverError, model_directory, seed
from llem_sampling import sampling

PYTORCH, TENSORRT = "pytorch", "tensorrt"
DTYPES = ("auto", "float32", "bfloat16", "float16")
# Options whose arguments have their name.
COMMON = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "context_parallel_size",
    "moe_expert_parallel_size",
    "moe_tensor_parallel_size",
    "enable_attention_dp",
    "enable_chunked_prefill",
    "load_format",
    "trust_remote_code",
)
ONLY = {
    PYTORCH: (
        "max_batch_size",
        "max_input_len",
        "max_seq_len",
        "max_num_tokens",
        "attn_backend",
        "sampler_type",
        "disable_overlap_scheduler",
        "enable_autotuner",
        "allreduce_strategy",
        "moe_backend",
        "cuda_graph",
        "torch_compile",
    ),
    TENSORRT: ("build", "fast_build", "quant", "calib", "batching_type", "multi_block_mode"),
}
# Options that are sections, by the argument that they become.
SECTIONS = {
    "kv_cache": "kv_cache_config",
    "scheduler": "scheduler_config",
    "speculative": "speculative_config",
    "cuda_graph": "cuda_graph_config",
    "build": "build_config",
    "quant": "quant_config",
    "calib": "calib_config",
}
# Arguments that `extra` may add fields to: objects of the engine.
OBJECTS = (*SECTIONS.values(), "moe_config", "torch_compile_config", "extended_runtime_perf_knob_config")
# Arguments that the driver itself needs.
DRIVERS_OWN = ("model", "tokenizer", "skip_tokenizer_init", "workspace", "stream_interval", "return_perf_metrics")
LORA = ("enable_lora", "lora_config", "peft_cache_config")


@dataclasses.dataclass
class Settings:
    """The settings of one experiment."""

    model: str
    engine: str
    dtype: str
    seed: int
    sampling: dict
    arguments: dict

    def keeps_blocks(self):
        """Whether blocks of earlier prompts are used again."""
        return self.arguments["kv_cache_config"]["enable_block_reuse"]

    def gpus(self):
        """How many graphics processors the engine computes on."""
        sizes = [self.arguments.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline", "context")]
        return sizes[0] * sizes[1] * sizes[2]


def read(spec):
    """Checks an engine specification of the protocol."""
    if spec["backend"] != "tensorrt":
        raise DriverError("invalid_config", f"this driver is of backend `tensorrt`, not `{spec['backend']}`")
    if spec.get("lora") is not None:
        text = "`lora` is not done by the tensorrt driver; merge the adapter with PEFT and point `model:` to the result"
        raise DriverError("unsupported", text)
    if spec["dtype"] not in DTYPES:
        raise DriverError("unsupported", f"`dtype: {spec['dtype']}` is not done by the tensorrt driver (done: {', '.join(DTYPES)})")
    options = _without_none(spec["options"])
    engine = options.pop("engine", PYTORCH)
    if engine not in ONLY:
        raise DriverError("unsupported", f"`tensorrt.engine: {engine}` is not done (done: {', '.join(ONLY)})")
    return Settings(
        model=model_directory(spec["model"]),
        engine=engine,
        dtype=spec["dtype"],
        seed=seed(spec["random_seed"]),
        sampling=sampling(spec["sampling"], "tensorrt") or {},
        arguments=_with_extra(_arguments(options, engine), spec["extra"]),
    )


def _without_none(value):
    if not isinstance(value, dict):
        return value
    return {key: _without_none(inner) for key, inner in value.items() if inner is not None}


def _arguments(options, engine):
    other = TENSORRT if engine == PYTORCH else PYTORCH
    tree = {}
    for key, value in options.items():
        if key in ONLY[other]:
            raise DriverError("unsupported", f"`tensorrt.{key}` is for `tensorrt.engine: {other}` only, and this is {engine}")
        if key not in COMMON and key not in ONLY[engine] and key not in SECTIONS:
            raise DriverError("unsupported", f"`tensorrt.{key}` is not done by the tensorrt driver; remove it")
        if key in SECTIONS and not isinstance(value, dict):
            raise DriverError("invalid_config", f"`tensorrt.{key}` is {value!r}; it must be a section with keys")
        name, argument = _argument(key, value)
        tree[name] = argument
    return tree


def _argument(key, value):
    if key == "moe_backend":
        return "moe_config", {"backend": value}
    if key == "multi_block_mode":
        return "extended_runtime_perf_knob_config", {"multi_block_mode": value}
    if key == "torch_compile":
        return "torch_compile_config", {} if value else None
    if key == "batching_type":
        return key, str(value).upper()
    if key == "cuda_graph":
        fields = dict(value)
        return "cuda_graph_config", fields if fields.pop("enabled", True) else None
    if key == "build":
        return "build_config", {"plugin_config" if name == "plugin" else name: inner for name, inner in value.items()}
    if key == "speculative":
        return "speculative_config", _speculative(dict(value))
    return SECTIONS.get(key, key), dict(value) if isinstance(value, dict) else value


def _speculative(fields):
    if "decoding_type" not in fields:
        raise DriverError("invalid_config", "`tensorrt.speculative.decoding_type` is missing")
    # Prediction heads of the model itself are counted under a name of their own.
    if fields["decoding_type"] == "MTP" and "max_draft_len" in fields:
        fields["num_nextn_predict_layers"] = fields.pop("max_draft_len")
    return fields


def _with_extra(tree, extra):
    for key, value in extra.items():
        place = f"tensorrt.extra.{key}"
        if key in DRIVERS_OWN:
            raise DriverError("invalid_config", f"`{place}` is set by the driver itself; remove it")
        if key in LORA:
            raise DriverError("unsupported", f"`{place}`: adapters are not done; merge them and point `model:` to the result")
        if key == "backend":
            raise DriverError("invalid_config", f"`{place}` has a field of its own: `tensorrt.engine`")
        if key in COMMON or key in ONLY[PYTORCH] + ONLY[TENSORRT] or key == "dtype":
            raise DriverError("invalid_config", f"`{place}` has a field of its own: `{'' if key == 'dtype' else 'tensorrt.'}{key}`")
        if key in OBJECTS and isinstance(value, dict):
            tree[key] = _merged(tree.get(key) or {}, value, place)
        else:
            tree[key] = value
    tree.setdefault("kv_cache_config", {}).setdefault("enable_block_reuse", False)
    return tree


def _merged(fields, more, place):
    merged = dict(fields)
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(merged.get(key, {}), dict):
            merged[key] = _merged(merged.get(key, {}), value, f"{place}.{key}")
        elif key in merged:
            raise DriverError("invalid_config", f"`{place}.{key}` is set twice: here and in its own field")
        else:
            merged[key] = value
    return merged

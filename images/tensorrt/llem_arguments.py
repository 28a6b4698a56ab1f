"""Trees of arguments to objects of the engine, and objects of the engine to what JSON can hold."""

import enum
import importlib
import math

import tensorrt_llm
from llem_channel import DriverError

# Classes by the argument that takes them.
CLASSES = {
    "kv_cache_config": "KvCacheConfig",
    "scheduler_config": "SchedulerConfig",
    "cuda_graph_config": "CudaGraphConfig",
    "torch_compile_config": "TorchCompileConfig",
    "moe_config": "MoeConfig",
    "build_config": "BuildConfig",
    "plugin_config": "PluginConfig",
    "quant_config": "QuantConfig",
    "calib_config": "CalibConfig",
    "extended_runtime_perf_knob_config": "ExtendedRuntimePerfKnobConfig",
    "dynamic_batch_config": "DynamicBatchConfig",
}
DECODING = {
    "Draft_Target": "DraftTargetDecodingConfig",
    "Eagle": "EagleDecodingConfig",
    "Medusa": "MedusaDecodingConfig",
    "Lookahead": "LookaheadDecodingConfig",
    "MTP": "MTPDecodingConfig",
    "NGram": "NGramDecodingConfig",
}
# Enumerations by the field that takes them: not every version of the classes takes their names as text.
ENUMERATIONS = {
    "capacity_scheduler_policy": "CapacitySchedulerPolicy",
    "context_chunking_policy": "ContextChunkingPolicy",
    "batching_type": "BatchingType",
    "quant_algo": "QuantAlgo",
    "kv_cache_quant_algo": "QuantAlgo",
    "kv_cache_type": "KVCacheType",
}
# Where versions 1.0 to 1.2 keep them.
MODULES = ("llmapi", "llmapi.llm_args", "builder", "plugin", "quantization", "bindings")
MAX_DEPTH = 8


def make(tree):
    """The arguments of `LLM(...)`."""
    return {key: _make(key, value) for key, value in tree.items()}


def _make(key, value):
    if value is None:
        return None
    if key in ENUMERATIONS and isinstance(value, str):
        return _member(key, value)
    if not isinstance(value, dict):
        return value
    if key == "speculative_config":
        fields = dict(value)
        kind = fields.pop("decoding_type", None)
        if kind in DECODING:
            return _find(DECODING[kind])(**fields)
    if key in CLASSES:
        return _find(CLASSES[key])(**make(value))
    return value


def _member(key, name):
    members = _find(ENUMERATIONS[key])
    member = getattr(members, name.upper(), None)
    if member is None:
        raise DriverError("unsupported", f"`{key}`: this TensorRT-LLM ({tensorrt_llm.__version__}) has no `{name}`")
    return member


def _find(name):
    for module in MODULES:
        try:
            found = getattr(importlib.import_module(f"tensorrt_llm.{module}"), name, None)
        except ImportError:
            continue
        if found is not None:
            return found
    raise DriverError("unsupported", f"this TensorRT-LLM ({tensorrt_llm.__version__}) has no `{name}`")


def plain(value, depth=0):
    """What JSON can hold of an object of the engine; names and numbers as they are, the rest as text."""
    if depth > MAX_DEPTH:
        return None
    if value is None or isinstance(value, (bool, int)) and not isinstance(value, enum.Enum):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner, depth + 1) for inner in value]
    fields = getattr(type(value), "model_fields", None) or getattr(type(value), "__dataclass_fields__", None)
    if fields:
        return {name: plain(getattr(value, name, None), depth + 1) for name in fields}
    return str(value)

"""The key-value cache: whether it can hold the workload, and whether the engine can make it."""

import transformers
from llem_channel import DriverError
from llem_quantization import is_installed


def check(settings, batches, device_map):
    """Refuses a cache that this engine, device or workload cannot do."""
    if settings.max_cache_len is not None:
        _check_length(settings.max_cache_len, batches)
    if settings.cache == "quantized" and not is_installed("optimum.quanto"):
        text = "`pytorch.cache.implementation: quantized` needs the package `optimum-quanto`, which the engine has not"
        raise DriverError("engine_missing", text)
    if settings.cache in ("offloaded", "offloaded_static") and device_map == "cpu":
        text = f"`pytorch.cache.implementation: {settings.cache}` has no effect: the model computes on the processor; remove it"
        raise DriverError("invalid_config", text)


def _check_length(length, batches):
    """Padding takes its place in the cache like any token."""
    if not hasattr(transformers.GenerationConfig(), "max_cache_len"):
        text = f"`pytorch.cache.max_cache_len` is not done by transformers {transformers.__version__}; remove it, or use a newer one"
        raise DriverError("unsupported", text)
    longest = max(batch.positions() for batch in batches)
    if longest > length:
        text = f"`pytorch.cache.max_cache_len` is {length}; the workload's longest batch needs {longest} (prompts with padding, and output)"
        raise DriverError("invalid_config", text)

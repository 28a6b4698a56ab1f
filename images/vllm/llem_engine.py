"""An engine of vLLM: arguments that this version knows, the device that was asked for, and what is in effect in the end.

Fits vLLM 0.19 to 0.33. What exists in some versions only is looked for, not assumed."""

import dataclasses
import difflib
import enum
import os

import torch
import vllm
from llem_channel import DriverError
import llem_environment
import llem_settings
from vllm import EngineArgs, LLMEngine
from vllm.config import CompilationConfig
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext


def check_arguments(settings):
    """Refuses by name what this version of vLLM does not know, before anything is loaded."""
    _check_names(settings.arguments, EngineArgs, settings.keys)
    compilation = settings.arguments.get("compilation_config", {})
    _check_names(compilation, CompilationConfig, {key: f"vllm.compilation.{key}" for key in compilation})


def _check_names(given, known, keys):
    fields = [field.name for field in dataclasses.fields(known)]
    for name in given.keys() - set(fields):
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "remove it, or use an image with another version"
        raise DriverError("unsupported", f"`{keys.get(name, name)}`: vLLM {vllm.__version__} has no such option; {hint}")


def check_device(settings):
    """A run that was meant for a graphics processor must not end up elsewhere in silence."""
    found = current_platform.device_type or "nothing"
    if settings.device == "cpu":
        if found != "cpu":
            text = f"`vllm.device: cpu`: the vLLM of this image computes on `{found}`; use an image of vLLM for processors"
            raise DriverError("unsupported", text)
        return
    count = torch.cuda.device_count() if found == "cuda" else 0
    if count == 0:
        text = "vLLM finds no usable graphics processor"
        remedy = "to run on the processor, set `vllm.device: cpu` and use an image of vLLM for processors"
        raise DriverError("no_gpu", f"{text} (its platform: {found}); {remedy}")
    if count < settings.world_size:
        text = f"`vllm.tensor_parallel_size` times `vllm.pipeline_parallel_size` is {settings.world_size}"
        raise DriverError("no_gpu", f"{text}, the run has {count} graphics processors")


def configure(settings):
    """vLLM's own configuration, checked by vLLM; nothing is loaded yet."""
    if "kv_cache_memory_bytes" in settings.arguments:
        llem_environment.own_cache_size()
    extension = {"worker_extension_cls": "llem_worker.Extension"}
    config = EngineArgs(**settings.arguments, **extension).create_engine_config(UsageContext.LLM_CLASS)
    dtype = str(config.model_config.dtype).removeprefix("torch.")
    if settings.dtype not in ("auto", dtype):
        raise DriverError("unsupported", f"vLLM would compute in {dtype} although `dtype: {settings.dtype}` was asked for")
    return config


def check_requests(requests, config):
    """vLLM refuses some of these in the middle of a pass, and cuts others short."""
    vocabulary, longest = config.model_config.get_vocab_size(), config.model_config.max_model_len
    for request in requests:
        index, prompt, outputs = request["index"], request["prompt_ids"], request["output_tokens"]
        if max(prompt) >= vocabulary:
            text = f"has token {max(prompt)} in its prompt, the model's vocabulary ends below {vocabulary}"
            raise DriverError("invalid_config", f"request {index} {text}")
        if len(prompt) + outputs > longest:
            text = f"needs {len(prompt)} prompt and {outputs} output tokens, vLLM takes {longest} in all"
            remedy = "raise `vllm.max_model_len` as far as the model goes, or shorten the workload"
            raise DriverError("invalid_config", f"request {index} {text}; {remedy}")


def adapter_request(settings):
    """The adapter as requests name it; `None` without one."""
    if settings.adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    limit = settings.arguments.get("max_lora_rank", llem_settings.DEFAULT_LORA_RANK)
    llem_settings.check_adapter(settings.adapter, limit)
    return LoRARequest(lora_name="adapter", lora_int_id=1, lora_path=settings.adapter)


def apply_adapter(engine, request):
    """Loads the adapter and says how many layers it changes; `None` where this version of vLLM does not tell. One that does not fit the
    model would be measured as if it had been applied."""
    engine.add_lora(request)
    facts = engine.collective_rpc("llem_adapter", args=(request.lora_int_id,))
    if None in facts:
        return None
    layers = {name for fact in facts for name in fact["layers"]}
    # Each worker of a pipeline has layers of its own.
    strays = sorted(set.intersection(*(set(fact["strays"]) for fact in facts)))
    if strays:
        text = f"the model has no place for {', '.join(strays[:4])} ({len(strays)} in all)"
        raise DriverError("invalid_config", f"the LoRA adapter does not fit the model: {text}")
    if not layers:
        raise DriverError("invalid_config", "the LoRA adapter fits no layer of the model")
    return len(layers)


def start(config):
    """Loads the model."""
    return LLMEngine.from_vllm_config(config, usage_context=UsageContext.LLM_CLASS, disable_log_stats=True)


def eos_ids(config):
    """Tokens that end a request when they count: those of the model's generation config, else of its own."""
    generation = config.model_config.try_get_generation_config()
    found = generation.get("eos_token_id")
    if found is None:
        found = getattr(config.model_config.hf_text_config, "eos_token_id", None)
    return [] if found is None else [found] if isinstance(found, int) else list(found)


def compiles(config):
    """Whether graphs are compiled or captured."""
    compilation = config.compilation_config
    return any(_number(getattr(compilation, name, None)) for name in ("mode", "level", "cudagraph_mode"))


def _number(value):
    """A mode's number; pairs of modes are not nothing."""
    value = getattr(value, "value", value)
    return 1 if isinstance(value, tuple) else value or 0


def in_effect(config, facts):
    """The settings after vLLM's own defaults and corrections; `None` for what this version does not tell."""
    cache, scheduler, compilation = config.cache_config, config.scheduler_config, config.compilation_config
    parallel, model = config.parallel_config, config.model_config
    blocks, block = getattr(cache, "num_gpu_blocks", None), getattr(cache, "block_size", None)
    found = {
        **_fields(model, "dtype", "max_model_len", "quantization", "enforce_eager", "seed", "trust_remote_code"),
        **_fields(cache, "num_gpu_blocks", "block_size", "gpu_memory_utilization", "kv_cache_memory_bytes", "enable_prefix_caching"),
        "kv_cache_dtype": getattr(cache, "cache_dtype", None),
        "kv_cache_tokens": blocks * block if blocks and block else None,
        **_fields(scheduler, "max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "async_scheduling"),
        "scheduling_policy": getattr(scheduler, "policy", None),
        **_fields(parallel, "tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend"),
        **_fields(parallel, "enable_expert_parallel", "disable_custom_all_reduce"),
        **_fields(config.load_config, "load_format"),
        **_fields(config, "optimization_level", "performance_mode"),
        "compilation_mode": getattr(compilation, "mode", None),
        "compilation_backend": getattr(compilation, "backend", None),
        **_fields(compilation, "cudagraph_mode", "cudagraph_capture_sizes"),
        "compilation_time_s": getattr(compilation, "compilation_time", None),
        "compile_cache": os.environ.get("VLLM_CACHE_ROOT") or None,
        "attention_backends": facts["attention"],
        "model_runner": facts["model_runner"],
        "num_threads": facts["threads"],
    }
    return {name: _plain(value) for name, value in found.items()}


def _fields(config, *names):
    return {name: getattr(config, name, None) for name in names}


def _plain(value):
    """As JSON can say it."""
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and abs(value) < float("inf")):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value).removeprefix("torch.")

"""A causal language model of transformers on its devices, and the proof that it is there."""

import itertools
import os
import random

import torch
import transformers
from llem_channel import DriverError
import llem_quantization


def choose_device(asked):
    """Where the model is to be. A run that was meant for a graphics processor must not end up elsewhere in silence."""
    if asked == "cpu":
        return asked
    if not torch.cuda.is_available():
        text = "PyTorch finds no usable graphics processor; to run on the processor, set `pytorch.device_map: cpu`"
        raise DriverError("no_gpu", text)
    count = torch.cuda.device_count()
    if asked not in (None, "auto") and int(asked.removeprefix("cuda:")) >= count:
        raise DriverError("no_gpu", f"`pytorch.device_map: {asked}`: the run has {count} graphics processors, counted from 0")
    return asked or "cuda:0"


def apply_switches(settings):
    """The switches of the process. To be called before CUDA is first used."""
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    if settings.allow_tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
    if settings.cudnn_benchmark is not None:
        torch.backends.cudnn.benchmark = settings.cudnn_benchmark
    if settings.cudnn_deterministic is not None:
        torch.backends.cudnn.deterministic = settings.cudnn_deterministic
    if settings.deterministic_algorithms is not None:
        if settings.deterministic_algorithms:
            # Without it cuBLAS is not deterministic, and PyTorch refuses to go on.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(settings.deterministic_algorithms)


def switches():
    """The switches of the process that are in effect, for the result."""
    return {
        "num_threads": torch.get_num_threads(),
        "allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cublas_workspace_config": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def load(settings, device_map):
    """The experiment's model."""
    random.seed(settings.seed)
    torch.manual_seed(settings.seed)
    arguments = {**settings.load, **settings.extra}
    if settings.load.get("use_kernels") and not llem_quantization.is_installed("kernels"):
        raise DriverError("engine_missing", "`pytorch.use_kernels` needs the package `kernels`, which the engine has not")
    if settings.attention is not None:
        arguments["attn_implementation"] = settings.attention
    quantization = llem_quantization.configuration(settings.quantization, settings.model)
    if quantization is not None:
        arguments["quantization_config"] = quantization
    _check_extra(settings)
    model = load_plain(settings, settings.model, device_map, **arguments)
    _check_switches(model, settings.load)
    return model


def _check_extra(settings):
    """transformers takes what is a field of the model's description as its new value: fewer layers would be measured as the whole model."""
    if not settings.extra:
        return
    remote_code = settings.load.get("trust_remote_code", False)
    config = transformers.AutoConfig.from_pretrained(settings.model, local_files_only=True, trust_remote_code=remote_code)
    for key in settings.extra:
        if hasattr(config, key):
            text = f"`pytorch.extra.{key}` changes the model's description, and the result would name another model than was measured"
            raise DriverError("invalid_config", f"{text}; change `config.json` in a copy of the model, and point `model:` to that")


def load_plain(settings, directory, device_map, **arguments):
    """A model with all its weights on its device."""
    has_accelerate = llem_quantization.is_installed("accelerate")
    if device_map == "auto" and not has_accelerate:
        raise DriverError("engine_missing", "`pytorch.device_map: auto` needs the package `accelerate`, which the engine has not")
    arguments = {"dtype": settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype), **arguments}
    # What is quantised while it is loaded cannot be moved afterwards.
    if has_accelerate and (device_map != "cpu" or settings.quantization is not None):
        arguments["device_map"] = device_map
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, local_files_only=True, output_loading_info=True, **arguments
    )
    # transformers would go on with random numbers in place of what is missing.
    for key in ("missing_keys", "mismatched_keys"):
        if wrong := sorted(map(str, info[key])):
            raise DriverError("model_missing", f"the model's weights are damaged: {key}: {', '.join(wrong[:8])} ({len(wrong)} in all)")
    return model.eval() if "device_map" in arguments else model.eval().to(device_map)


def _check_switches(model, load):
    """Settings that transformers takes and does not follow with every model."""
    experts = load.get("experts_implementation")
    if experts is not None and not getattr(model, "_can_set_experts_implementation", lambda: False)():
        text = f"`pytorch.experts_implementation: {experts}` has no effect: the model has no experts that transformers can switch"
        raise DriverError("invalid_config", f"{text}; remove it")
    if load.get("use_kernels") and not getattr(model, "use_kernels", False):
        raise DriverError("unsupported", "transformers did not put kernels of the hub into this model; remove `pytorch.use_kernels`")


def devices(model, device_map):
    """Where the model really is: every parameter and buffer is looked at."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    places = {}
    for name, tensor in tensors:
        places.setdefault(str(tensor.device), name)
    for place, name in places.items():
        if device_map == "auto" and not place.startswith("cuda"):
            raise DriverError("out_of_memory", f"the model does not fit on the graphics processors: `{name}` is on `{place}`")
        if device_map != "auto" and place != device_map:
            raise DriverError("unsupported", f"`{name}` of the model is on `{place}`, not on `{device_map}`")
    return [torch.device(place) for place in sorted(places)]


def dtype(model, asked):
    """The data type that most of the model has; where weights are packed, that of the others."""
    numbers = {}
    for parameter in model.parameters():
        if not parameter.is_floating_point() or "float8" in str(parameter.dtype):
            continue
        name = str(parameter.dtype).removeprefix("torch.")
        numbers[name] = numbers.get(name, 0) + parameter.numel()
    found = max(numbers, key=numbers.get)
    if asked not in ("auto", found):
        raise DriverError("unsupported", f"the model was loaded as {found} although `dtype: {asked}` was asked for")
    return found


def special_tokens(model, ignore_eos):
    """Tokens that end a request, none when they are ignored, and the token that fills up short prompts."""
    own, config = model.generation_config, model.config.get_text_config()
    eos = own.eos_token_id if own.eos_token_id is not None else getattr(config, "eos_token_id", None)
    eos_ids = [] if ignore_eos or eos is None else [eos] if isinstance(eos, int) else list(eos)
    # Fillers are masked: any token of the vocabulary will do.
    pad_id = own.pad_token_id if isinstance(own.pad_token_id, int) and own.pad_token_id >= 0 else 0
    return eos_ids, pad_id


def check_requests(requests, model):
    """On a graphics processor, a token or position outside of the model would be an error without a name."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for request in requests:
        index, prompt, outputs = request["index"], request["prompt_ids"], request["output_tokens"]
        if max(prompt) >= vocabulary:
            text = f"has token {max(prompt)} in its prompt, the model's vocabulary ends below {vocabulary}"
            raise DriverError("invalid_config", f"request {index} {text}")
        if positions is not None and len(prompt) + outputs > positions:
            text = f"needs {len(prompt)} prompt and {outputs} output tokens, the model has {positions} positions"
            raise DriverError("invalid_config", f"request {index} {text}")

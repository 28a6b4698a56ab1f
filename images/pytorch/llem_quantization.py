"""Weights in few bits: the engine's configuration, and proof that it was followed."""

import importlib.util
import json
import os

import torch
import transformers
from llem_channel import DriverError

# What has to be installed, by method: the module that is looked for and the package that brings it.
PACKAGES = {
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "gptq": ("gptqmodel", "gptqmodel"),
    "awq": ("gptqmodel", "gptqmodel"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "torchao": ("torchao", "torchao"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "fp8": None,
    "fbgemm_fp8": ("fbgemm_gpu", "fbgemm-gpu-genai"),
    "mxfp4": None,
    "eetq": ("eetq", "eetq"),
    "aqlm": ("aqlm", "aqlm"),
    "higgs": ("flute", "flute-kernel"),
    "auto-round": ("auto_round", "auto-round"),
}
# Methods that read weights which are quantised already.
CHECKPOINTS = ("gptq", "awq", "compressed-tensors", "aqlm", "auto-round", "mxfp4")
# Methods without a number of bits or a group size of their own.
FIXED = ("fp8", "fbgemm_fp8", "eetq")


def configuration(asked, model):
    """The argument `quantization_config` of `from_pretrained`; `None` where the checkpoint's own counts."""
    if asked is None:
        return None
    method = asked["method"]
    own = _of_checkpoint(model)
    if method in CHECKPOINTS:
        _check_checkpoint(asked, own)
    elif own is not None:
        text = f"the model's weights are quantised already, by `{own.get('quant_method')}`; `pytorch.quantization` cannot do it again"
        raise DriverError("invalid_config", text)
    for module, package in filter(None, (PACKAGES[method], ("accelerate", "accelerate"))):
        if not is_installed(module):
            text = f"`pytorch.quantization.method: {method}` needs the package `{package}`, which the engine has not"
            raise DriverError("engine_missing", text)
    return None if method in CHECKPOINTS else _made(method, asked)


def is_installed(module):
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _of_checkpoint(model):
    with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
        return json.load(file).get("quantization_config")


def _check_checkpoint(asked, own):
    """What is asked for must be what the weights are."""
    found = (own or {}).get("quant_method")
    if str(found).replace("_", "-") != asked["method"]:
        has = f"its config.json says `{found}`" if found else "its config.json has no `quantization_config`"
        text = f"`pytorch.quantization.method: {asked['method']}` reads weights that are quantised so already; {has}"
        raise DriverError("invalid_config", f"{text}: name such a model, or another method")
    for key in ("bits", "group_size"):
        if key in asked and own.get(key) != asked[key]:
            text = f"`pytorch.quantization.{key}` is {asked[key]}, the model's weights have {own.get(key)}"
            raise DriverError("invalid_config", f"{text}; remove it")


def _made(method, asked):
    given = {key: value for key, value in asked.items() if key != "method"}
    if method in FIXED and given:
        text = f"`pytorch.quantization.{next(iter(given))}` has no effect: `method: {method}` has a fixed format; remove it"
        raise DriverError("invalid_config", text)
    if method == "bitsandbytes":
        if "bnb_4bit_compute_dtype" in given:
            given["bnb_4bit_compute_dtype"] = getattr(torch, given["bnb_4bit_compute_dtype"])
        return transformers.BitsAndBytesConfig(**given)
    if method == "hqq":
        return transformers.HqqConfig(nbits=given.get("bits", 4), group_size=given.get("group_size", 64))
    if method == "quanto":
        return _quanto(given)
    if method == "torchao":
        return _torchao(given)
    if method == "higgs":
        return transformers.HiggsConfig(**given)
    classes = {"fp8": "FineGrainedFP8Config", "fbgemm_fp8": "FbgemmFp8Config", "eetq": "EetqConfig"}
    return getattr(transformers, classes[method])()


def _quanto(given):
    bits = _bits("quanto", given, (2, 4, 8))
    if "group_size" in given:
        raise DriverError("invalid_config", "`pytorch.quantization.group_size` has no effect with `method: quanto`; remove it")
    return transformers.QuantoConfig(weights=f"int{bits}")


def _torchao(given):
    import torchao.quantization

    bits = _bits("torchao", given, (4, 8))
    group = {"group_size": given["group_size"]} if "group_size" in given else {}
    return transformers.TorchAoConfig(getattr(torchao.quantization, f"Int{bits}WeightOnlyConfig")(**group))


def _bits(method, given, known):
    if given.get("bits") not in known:
        choice = ", ".join(map(str, known))
        raise DriverError("invalid_config", f"`pytorch.quantization.bits` with `method: {method}` must be one of {choice}")
    return given["bits"]


def in_effect(model, asked):
    """The quantisation of a loaded model, for the result; `None` without any. One that was asked for and is not there is refused: its
    figures would be those of another model."""
    few = [name for name, module in model.named_modules() if _is_quantised(module)]
    if not few:
        if asked is None:
            return None
        raise DriverError("unsupported", f"the engine quantised no layer although `pytorch.quantization` asks for {asked['method']}")
    linear = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    config = getattr(getattr(model, "hf_quantizer", None), "quantization_config", None)
    return {
        "method": str(getattr(getattr(config, "quant_method", None), "value", getattr(config, "quant_method", None))),
        "config": json.loads(json.dumps(config.to_dict(), default=str)) if config is not None else None,
        "quantized_layers": len(few),
        "other_linear_layers": sorted(set(linear) - set(few))[:16],
    }


def _is_quantised(module):
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(_has_few_bits(tensor) for tensor in own)


def _has_few_bits(tensor):
    """Whether a tensor holds packed numbers, or is of a quantisation library's own class."""
    name = str(tensor.dtype).removeprefix("torch.")
    is_packed = name in ("uint8", "int8", "int16", "int32") or name.startswith(("float8", "float4"))
    return is_packed or type(tensor).__module__.split(".")[0] in ("torchao", "optimum", "hqq", "bitsandbytes")

"""What an experiment asks of this backend, checked. Standard library only.

Every option is either done or refused by name; an absent one is left to the engine."""

import dataclasses
import os
import re

from llem_channel import DriverError

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
# Without `paged`: it is another loop than `generate` and gives no stamps.
CACHES = ("dynamic", "static", "offloaded", "offloaded_static", "quantized")
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
DRIVERS_OWN = ("config", "local_files_only", "output_loading_info", "pretrained_model_name_or_path", "state_dict")


@dataclasses.dataclass
class Settings:
    """The settings of one experiment; `None` is the engine's default."""

    model: str
    dtype: str
    seed: int
    batch_size: int
    device_map: str | None
    attention: str | None
    cache: str | None
    use_cache: bool | None
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
    if spec.get("lora") is not None:
        raise DriverError("unsupported", "`lora` is not done by the pytorch driver; merge the adapter into the model first")
    top = Section("pytorch", spec["options"])
    attn, cache = top.section("attn"), top.section("cache")
    settings = Settings(
        model=_directory(spec["model"]),
        dtype=_one_of("dtype", spec["dtype"], DTYPES),
        seed=_seed(spec["random_seed"]),
        batch_size=top.count("batch_size", 65_536) or 1,
        device_map=_device_map(top.take("device_map")),
        attention=attn.choice("implementation", ATTENTION),
        cache=cache.choice("implementation", CACHES),
        use_cache=cache.flag("use_cache"),
        num_threads=top.count("num_threads", 4_096),
        allow_tf32=top.flag("allow_tf32"),
        cudnn_benchmark=top.flag("cudnn_benchmark"),
        cudnn_deterministic=top.flag("cudnn_deterministic"),
        deterministic_algorithms=top.flag("deterministic_algorithms"),
        sampling=_sampling(spec["sampling"]),
        extra=_extra(spec["extra"]),
    )
    for section in (attn, cache, top):
        section.refuse_rest()
    return settings


class Section:
    """Options of one level; what nobody takes is refused."""

    def __init__(self, name, options):
        if not isinstance(options, dict):
            raise DriverError("invalid_config", f"`{name}` is {options!r}; it must be a section with keys")
        self._name = name
        self._options = {key: value for key, value in options.items() if value is not None}
        self._done = []

    def take(self, key):
        """The option's value; `None` when it is absent."""
        self._done.append(key)
        return self._options.pop(key, None)

    def section(self, key):
        """The section below this one, empty when it is absent."""
        value = self.take(key)
        return Section(f"{self._name}.{key}", {} if value is None else value)

    def flag(self, key):
        """A switch."""
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return value
        raise self._refusal(key, value, "true or false")

    def count(self, key, most):
        """A whole number from 1 to `most`."""
        value = self.take(key)
        if value is None or (type(value) is int and 1 <= value <= most):
            return value
        raise self._refusal(key, value, f"a whole number from 1 to {most}")

    def choice(self, key, known):
        """One of the names of the engine."""
        value = self.take(key)
        return None if value is None else _one_of(f"{self._name}.{key}", value, known)

    def refuse_rest(self):
        """An option that the driver does not do must not look as if it had an effect."""
        for key in self._options:
            known = ", ".join(self._done)
            raise DriverError("unsupported", f"`{self._name}.{key}` is not done by the pytorch driver (done: {known}); remove it")

    def _refusal(self, key, value, rule):
        return DriverError("invalid_config", f"`{self._name}.{key}` is {value!r}; it must be {rule}")


def _one_of(name, value, known):
    if value in known:
        return value
    raise DriverError("unsupported", f"`{name}: {value}` is not done by the pytorch driver (done: {', '.join(known)})")


def _directory(model):
    if "directory" not in model:
        raise DriverError("model_missing", "the pytorch driver reads local directories, not the hub; name the model's directory")
    if not os.path.isdir(model["directory"]):
        raise DriverError("model_missing", f"the model directory {model['directory']} does not exist")
    return model["directory"]


def _seed(text):
    if text.isascii() and text.isdigit() and int(text) < 1 << 64:
        return int(text)
    raise DriverError("invalid_config", f"`random_seed` is `{text}`; it must be a whole number below 2^64")


def _device_map(value):
    if value is None or value in ("cpu", "auto"):
        return value
    if isinstance(value, str) and re.fullmatch(r"cuda(:[0-9]{1,4})?", value):
        return "cuda:0" if value == "cuda" else value
    known = "cpu, cuda:0 or another index, auto"
    raise DriverError("unsupported", f"`pytorch.device_map: {value}` is not done by the pytorch driver (done: {known})")


def _sampling(section):
    """The arguments of `generate`; empty for greedy. The engine's own defaults (`top_k: 50`) are not the experiment's."""
    given = {key: value for key, value in section.items() if value is not None}
    for key in given.keys() - {"temperature", "top_k", "top_p"}:
        raise DriverError("unsupported", f"`sampling.{key}` is not done by the pytorch driver")
    if not given or given.get("temperature") == 0:
        return {}
    temperature, top_k, top_p = given.get("temperature", 1.0), given.get("top_k", 0), given.get("top_p", 1.0)
    return {"temperature": float(temperature), "top_k": top_k, "top_p": float(top_p)}


def _extra(extra):
    for key in extra:
        if key in OWN_FIELDS:
            text = f"`pytorch.extra.{key}` has a field of its own: `{OWN_FIELDS[key]}`"
            raise DriverError("invalid_config", text)
        if key in DRIVERS_OWN:
            raise DriverError("invalid_config", f"`pytorch.extra.{key}` is set by the driver itself; remove it")
    return extra

"""What drivers of engines on PyTorch share: devices and versions. Needs PyTorch."""

import ctypes
import importlib.metadata
import platform

import torch
from llem_channel import processor


def describe(device):
    """A device of the protocol."""
    if device.type == "cpu":
        return processor()
    properties = torch.cuda.get_device_properties(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    uuid = getattr(properties, "uuid", None) or _uuid_by_driver(index)
    return {"kind": "gpu", "uuid": uuid and f"GPU-{str(uuid).removeprefix('GPU-')}", "name": properties.name}


def _uuid_by_driver(index):
    """For a PyTorch that does not tell: CUDA's driver counts the processors as PyTorch does."""
    driver, device, raw = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index) or driver.cuDeviceGetUuid(raw, device):
        return None
    text = bytes(raw).hex()
    return "-".join([text[:8], text[8:12], text[12:16], text[16:20], text[20:]])


def main_dtype(parameters):
    """The data type that most of these parameters have; where weights are packed, that of the others."""
    numbers = {}
    for parameter in parameters:
        if not parameter.is_floating_point() or "float8" in str(parameter.dtype):
            continue
        name = str(parameter.dtype).removeprefix("torch.")
        numbers[name] = numbers.get(name, 0) + parameter.numel()
    return max(numbers, key=numbers.get, default=None)


def libraries(distributions):
    """Versions of Python, of those distributions that are there, and of what PyTorch was built with."""
    return {"python": platform.python_version(), **_distributions(distributions), **_cuda_libraries()}


def _distributions(names):
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cuda_libraries():
    """None in a build for processors."""
    if torch.version.cuda is None:
        return {}
    found = {"cuda": torch.version.cuda}
    if torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found

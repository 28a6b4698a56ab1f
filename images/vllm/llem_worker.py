"""What the driver asks of vLLM's workers, which have the devices: by its `worker_extension_cls`, whichever process they are in."""

import functools
import os
import random
import sys
import time

import llem_torch
import numpy
import torch
from llem_channel import peak_main_memory_bytes

# Steps of a worker's start in which graphs are compiled and captured. The first run of the model, which measures its memory, compiles it.
COMPILING = ("determine_available_memory", "compile_or_warm_up_model")
WORKERS = (("vllm.v1.worker.gpu_worker", "Worker"), ("vllm.v1.worker.cpu_worker", "CPUWorker"))

# When this process was in such a step.
_stretches = []


class Extension:
    """Methods of a worker."""

    def llem_facts(self):
        """What only the worker knows."""
        parameters = list(self.get_model().parameters())
        return {
            "device": llem_torch.describe(self.device),
            "parameters": sum(parameter.numel() for parameter in parameters),
            "dtype": llem_torch.main_dtype(parameters),
            "attention": _attention(self.model_runner),
            "model_runner": f"{type(self.model_runner).__module__}.{type(self.model_runner).__qualname__}",
            "threads": torch.get_num_threads(),
            "stretches": _stretches,
        }

    def llem_synchronize(self):
        """Returns when the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def llem_seed(self, seed):
        """Sets everything random to where every pass begins."""
        random.seed(seed)
        numpy.random.seed(seed % (1 << 32))
        torch.manual_seed(seed)

    def llem_adapter(self, identifier):
        """The layers of this worker that an adapter changes, and those that it has weights for and this worker has not: vLLM goes on without
        a word. `None` where this version of vLLM keeps them elsewhere. Experts are left out, whose weights vLLM arranges anew."""
        try:
            manager = self.model_runner.lora_manager._adapter_manager
            given, known = set(manager.get_adapter(identifier).loras), set(manager.modules)
        except AttributeError:
            return None
        return {"layers": sorted(given & known), "strays": sorted(name for name in given - known if ".experts" not in name)}

    def llem_peak_memory(self):
        """The most memory that tensors occupied at once on the device, the whole key-value cache included; on the processor, the most that
        the process occupied. With the process, because workers can share one."""
        if self.device.type == "cuda":
            return f"{self.device}", torch.cuda.max_memory_allocated(self.device)
        return f"{os.getpid()}", peak_main_memory_bytes()


def _attention(runner):
    """Names of the attention kernels; `None` where this version of vLLM keeps them elsewhere."""
    try:
        return sorted({group.backend.get_name() for groups in runner.attn_groups for group in groups}) or None
    except AttributeError:
        return None


def _watch(worker, name):
    step = worker.__dict__.get(name)
    if step is None:
        return

    @functools.wraps(step)
    def watched(*args, **kwargs):
        start_ns = time.monotonic_ns()
        try:
            return step(*args, **kwargs)
        finally:
            _stretches.append({"start_ns": start_ns, "end_ns": time.monotonic_ns()})

    setattr(worker, name, watched)


# vLLM imports the worker's class first, then this file, then makes the worker.
for _module, _name in WORKERS:
    if _class := getattr(sys.modules.get(_module), _name, None):
        for _step in COMPILING:
            _watch(_class, _step)

"""The process's variables, set before vLLM is imported. Standard library only."""

import os
import tempfile

# Everything is on this machine already; a look at the hub would only cost time. What reports to vLLM's makers reads the hardware in a
# thread of its own, which is no part of the work. The channel's stdout is the agent's. A worker that is forked from a process that
# has used CUDA cannot use it.
ALWAYS = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare():
    """Sets what is not set yet: who starts the driver has the last word."""
    for name, value in ALWAYS.items():
        os.environ.setdefault(name, value)
    # A user without an entry in the image's list of users has neither; vLLM, Triton and PyTorch want a place for what they compile.
    if not _is_writable(os.environ.get("HOME", "")):
        os.environ["HOME"] = tempfile.gettempdir()
    os.environ.setdefault("USER", "llem")


def choose_processes(world_size):
    """Whether the engine's core is in this process: it is for one device, so that all requests are there before the first step, exceptions
    keep their class and nothing waits for another process. `VLLM_ENABLE_V1_MULTIPROCESSING` in the environment decides otherwise."""
    alone = os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0" if world_size == 1 else "1")
    return alone == "0"


def own_cache_size():
    """On processors an older variable of vLLM would win over `kv_cache_memory_bytes`."""
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)


def _is_writable(directory):
    return os.path.isdir(directory) and os.access(directory, os.W_OK)

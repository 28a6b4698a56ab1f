"""The class that builds and runs compiled engines; versions up to 1.2 have it."""

import tensorrt_llm
from llem_channel import DriverError

# Arguments of a build: an engine that exists has them in itself.
BUILD_ONLY = ("build_config", "quant_config", "calib_config", "fast_build", "load_format", "embedding_parallel_mode", "enable_build_cache")


def llm_class():
    """`LLM` of the TensorRT engine path, which is another class than that of the PyTorch path."""
    try:
        from tensorrt_llm._tensorrt_engine import LLM
    except ImportError as error:
        text = f"TensorRT-LLM {tensorrt_llm.__version__} has no compiled engines; take an image of 1.2, or `tensorrt.engine: pytorch`"
        raise DriverError("unsupported", text) from error
    return LLM


def runtime_arguments(tree):
    """What an engine that exists is loaded with."""
    return {key: value for key, value in tree.items() if key not in BUILD_ONLY}

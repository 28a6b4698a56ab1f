"""A stand-in for TensorRT-LLM 1.2: see README.md beside this package. It computes nothing."""

import os

from standin import SCRIPT, fail, tell

if SCRIPT.get("needs_libraries") and SCRIPT["needs_libraries"] not in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
    raise ImportError("libnvinfer.so.10: cannot open shared object file: No such file or directory")
if SCRIPT["fail"].get("import") == "driver":
    raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")
fail("import")

import tensorrt  # noqa: E402  (as the real one does)

from ._classes import CLASSES, SamplingParams  # noqa: E402
from ._llm import TorchLLM as LLM  # noqa: E402

__version__ = SCRIPT["version"]
BuildConfig = CLASSES["BuildConfig"]
LLM.__name__ = "LLM"
tell("import", tensorrt=tensorrt.__version__)
# The real one prints where it likes, too.
print(f"[TensorRT-LLM] TensorRT-LLM version: {__version__}", flush=True)

"""llem's driver of TensorRT-LLM. Started by the agent, which speaks the driver protocol with it."""

import os
import sys

import llem_channel

# NVIDIA's images name it in a start-up file of the shell only, which nobody reads when the driver is started without one.
LIBRARIES = "/usr/local/tensorrt/lib"


def find_libraries():
    """Makes TensorRT's libraries findable. The dynamic linker reads its variable when a program starts: this one starts anew, once."""
    known = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    if LIBRARIES in known or not os.path.isdir(LIBRARIES):
        return
    os.environ["LD_LIBRARY_PATH"] = ":".join([LIBRARIES, *filter(None, known)])
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def start():
    """Imports the engine. A function, because importing prints, and what is printed before the channel is taken breaks it."""
    # Everything is on this machine already; a look at the hub would only cost time.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import llem_tensorrt
    except ImportError as error:
        # The driver of the GPU is not part of the image.
        failure_class = "no_gpu" if "libcuda.so" in str(error) else "engine_missing"
        raise llem_channel.DriverError(failure_class, f"TensorRT-LLM cannot be imported: {error}") from error
    return llem_tensorrt.Engine()


# The engine's workers import this file again.
if __name__ == "__main__":
    find_libraries()
    llem_channel.serve(start)

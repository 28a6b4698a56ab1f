"""How the stand-in is to behave, and what it says of what it was asked."""

import json
import os
import pathlib
import sys
import time

FACTS = json.loads(pathlib.Path(__file__).with_name("tensorrt_llm").joinpath("facts.json").read_text())


def _script():
    if path := os.environ.get("LLEM_STANDIN_FILE"):
        return json.loads(pathlib.Path(path).read_text())
    return json.loads(os.environ.get("LLEM_STANDIN", "{}"))


SCRIPT = {
    "gpus": ["5ca1ab1e-0000-4000-8000-000000000000"],
    "device": "NVIDIA Stand-in",
    "compute": "9.0",
    "version": FACTS["version"],
    "tensorrt": FACTS["tensorrt"],
    "build_seconds": 0,
    "token_seconds": 0.0005,
    "fail": {},
    **_script(),
}


def tell(event, **fields):
    """Adds a line to the log."""
    if "log" in SCRIPT:
        with open(SCRIPT["log"], "a", encoding="utf-8") as log:
            log.write(json.dumps({"event": event, "process": os.getpid(), **fields}) + "\n")


def fail(moment):
    """Fails as the script says; returns where another part of the stand-in is to."""
    how = SCRIPT["fail"].get(moment)
    if how == "hang":
        time.sleep(3600)
    elif how == "crash":
        print("[TensorRT-LLM][ERROR] terminate called after throwing an instance of 'std::exception'", file=sys.stderr, flush=True)
        os.abort()
    elif how == "oom":
        text = "Executor creation failed due to insufficient GPU memory.\n\nThe following component could not be created: KV cache"
        raise RuntimeError(text if moment == "load" else "[TRT] [E] Requested amount of GPU memory could not be allocated: OutOfMemory")
    elif how == "worker":
        print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", file=sys.stderr, flush=True)
        raise RuntimeError("Executor worker returned error")

"""Compiled engines: where they come from, building one, and whether what is there is one.

The agent's job says it in the environment: `LLEM_ENGINE_DIR` is a directory with a verified engine, which is loaded and never written to;
`LLEM_ENGINE_BUILD_DIR` is an empty directory that the engine is built into and then loaded from. Without either, it is built into a
directory that is removed at the end."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import tensorrt_llm
from llem_channel import DriverError

LOAD, BUILD = "LLEM_ENGINE_DIR", "LLEM_ENGINE_BUILD_DIR"
# What the engine says of a compiled one that is not for this device or version; lower case.
STALE = (
    "engine plan file is generated on an incompatible device",
    "not compatible with this version of tensorrt",
    "failed to deserialize cuda engine",
)
# How long the workers of a finished build may take to be gone; their memory on the device goes with them.
WORKERS_GONE_S = 60


class BuildFailed(Exception):
    """The build failed; text and causes are those of its process."""


class Engines:
    """The compiled engine of a run."""

    def __init__(self, environment):
        self._load, self._build = environment.get(LOAD), environment.get(BUILD)
        if self._load and self._build:
            raise DriverError("invalid_config", f"{LOAD} and {BUILD} are both set: one engine is loaded or built, not both")
        self._own = None

    def refuse_any(self):
        """For a run without a compiled engine."""
        if self._load or self._build:
            raise DriverError("invalid_config", f"{self._load or self._build} is given for an engine, and `tensorrt.engine` is pytorch")

    def ready(self, settings):
        """The directory of the engine, its `config.json`, and the stretches of the build, none when it was there."""
        if self._load:
            return self._load, read_config(self._load, settings), []
        directory = self._build or self._temporary()
        if os.listdir(directory):
            raise DriverError("invalid_config", f"{BUILD}: {directory} is not empty")
        stretch = _build(settings, directory)
        try:
            return directory, read_config(directory, settings), [stretch]
        except DriverError as error:
            raise DriverError("unsupported", f"the build ended without an error and without a whole engine: {error}") from error

    def _temporary(self):
        self._own = tempfile.mkdtemp(prefix="llem-engine-")
        return self._own

    def close(self):
        """Removes an engine that nobody asked for to be kept."""
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)


def read_config(directory, settings):
    """The engine's own description. What is not whole, or is of another version, is stale: the host makes it anew."""
    try:
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        version = config["version"]
        missing = {"pretrained_config", "build_config"} - config.keys()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DriverError("engine_stale", f"{directory}/config.json describes no engine: {error!r}") from error
    if missing:
        raise DriverError("engine_stale", f"{directory}/config.json describes no engine: `{missing.pop()}` is missing")
    ranks = [f"rank{rank}.engine" for rank in range(settings.gpus())]
    if lost := [name for name in ranks if not os.path.isfile(os.path.join(directory, name))]:
        raise DriverError("engine_stale", f"the engine in {directory} lacks {', '.join(lost)}")
    # The engine itself would try any.
    if version != tensorrt_llm.__version__:
        raise DriverError("engine_stale", f"the engine was built by TensorRT-LLM {version}, and this is {tensorrt_llm.__version__}")
    return config


@contextlib.contextmanager
def staleness():
    """Gives errors that mean a stale engine their class. What only a worker wrote, the agent finds in the log."""
    try:
        yield
    except Exception as error:
        cause, texts = error, []
        while cause is not None and len(texts) < 16:
            texts.append(str(cause).lower())
            cause = cause.__cause__ or cause.__context__
        if any(sign in text for sign in STALE for text in texts):
            raise DriverError("engine_stale", f"the engine does not fit this device or version: {error}") from error
        raise


def _build(settings, directory):
    """Builds in a process of its own: memory on the device and workers that will not leave end with it."""
    start_ns = time.monotonic_ns()
    with tempfile.TemporaryDirectory(prefix="llem-build-", ignore_cleanup_errors=True) as workspace:
        job, outcome = os.path.join(workspace, "job.json"), os.path.join(workspace, "outcome.json")
        asked = {"model": settings.model, "dtype": settings.dtype, "arguments": settings.arguments}
        with open(job, "w", encoding="utf-8") as file:
            json.dump({**asked, "directory": directory, "workspace": workspace, "outcome": outcome}, file)
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "llem_build.py")
        process = subprocess.Popen([sys.executable, script, job], stdin=subprocess.DEVNULL, start_new_session=True)
        status = process.wait()
        _end_workers(process.pid)
        _check_outcome(outcome, status)
    return {"start_ns": start_ns, "end_ns": time.monotonic_ns()}


def _end_workers(group):
    deadline = time.monotonic() + WORKERS_GONE_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            # Orphans are this process's to bury where it is the first of its container.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-group, os.WNOHANG)
            time.sleep(0.02)


def _check_outcome(path, status):
    try:
        with open(path, encoding="utf-8") as file:
            outcome = json.load(file)
    except (OSError, ValueError):
        # The class is in the log, where the agent looks for it.
        how = f"status {status}" if status >= 0 else f"signal {-status}"
        raise BuildFailed(f"the process that built the engine ended with {how}") from None
    if outcome.get("done"):
        return
    error = BuildFailed(f"the engine was not built: {outcome['kind']}: {outcome['text']}")
    error.failure_class = outcome.get("class")
    if outcome["causes"]:
        raise error from BuildFailed("; caused by: ".join(outcome["causes"]))
    raise error

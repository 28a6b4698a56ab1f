"""What llem's Python drivers share: the line to the agent, what its requests hold, packages, errors. Standard library only, Python 3.10
or later.

The agent speaks JSON lines: requests on stdin, messages on the stdout that the driver was started with.
"""

import contextlib
import importlib.metadata
import json
import os
import sys
import traceback

PROTOCOL_VERSION = 2
# The longest line that either side accepts, in bytes.
MAX_LINE_BYTES = 16 * 1024 * 1024
# Texts of exceptions can hold whole tensors.
MAX_TEXT = 64 * 1024
MAX_CAUSES = 16


class DriverError(Exception):
    """A failure whose class the driver knows, e.g. `invalid_config`."""

    def __init__(self, failure_class, text):
        super().__init__(text)
        self.failure_class = failure_class


class Channel:
    """The line to the agent."""

    def __init__(self, requests, messages):
        self._requests = requests
        self._messages = messages

    @classmethod
    def over_stdio(cls):
        """Takes stdin and stdout. From then on descriptor 1 is stderr, so that no engine can write into the protocol, and
        descriptor 0 is empty, so that no child can read from it. To be called before any engine is imported."""
        requests, messages = os.dup(0), os.dup(1)
        os.dup2(2, 1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        return cls(os.fdopen(requests, "rb"), os.fdopen(messages, "wb"))

    def receive(self):
        """The next request as a dictionary; `None` when the agent has closed its end."""
        line = self._requests.readline(MAX_LINE_BYTES + 1)
        if not line:
            return None
        if len(line) > MAX_LINE_BYTES:
            raise DriverError("protocol", f"a request is longer than {MAX_LINE_BYTES} bytes")
        try:
            request = json.loads(line)
        except ValueError as error:
            raise DriverError("protocol", f"a request is not one of the protocol: {error}") from error
        if not isinstance(request, dict):
            raise DriverError("protocol", "a request is not one of the protocol: it is no object")
        return request

    def queue(self, message, **fields):
        """Sends one message with the next ones."""
        self._messages.write(json.dumps({"message": message, **fields}, allow_nan=False).encode() + b"\n")

    def send(self, message, **fields):
        """Sends one message."""
        self.queue(message, **fields)
        self._messages.flush()

    def send_error(self, error):
        """Sends the last message of a driver that gives up."""
        self.send("error", **error_fields(error))


def error_fields(error):
    """What the protocol says of an error."""
    causes = [_text(cause) for cause in _causes(error)]
    failure_class = getattr(error, "failure_class", None)
    return {"class": failure_class, "kind": _kind(error), "text": _text(error), "causes": causes}


def serve(start):
    """Speaks the driver protocol with the engine that `start()` imports and returns, and never returns itself.

    The engine has `hello()`, `load(spec, requests, ignore_eos)`, `run_pass(pass_number, record, prefill_only)`, `records()` and
    `peak_memory_bytes()`; the first three return the fields of their message. An engine with `close()` is closed at the end. The process
    ends without the interpreter's own clearing up, which can hang once a graphics processor was in use."""
    channel = Channel.over_stdio()
    engine, status = None, 1
    try:
        engine = start()
        channel.send("hello", protocol_version=PROTOCOL_VERSION, packages=packages(), **engine.hello())
        _answer_requests(channel, engine)
        status = 0
    except BaseException as error:
        traceback.print_exc()
        channel.send_error(error)
    finally:
        if hasattr(engine, "close"):
            with contextlib.suppress(Exception):
                engine.close()
        sys.stderr.flush()
        os._exit(status)


def _answer_requests(channel, engine):
    is_loaded = False
    while (request := channel.receive()) is not None:
        kind = request.get("request")
        if kind == "load" and not is_loaded:
            requests = read_workload(request["workload"])
            channel.send("loaded", requests=len(requests), **engine.load(request["engine"], requests, request["ignore_eos"]))
            is_loaded = True
        elif kind == "pass" and is_loaded:
            number = request["pass"]
            counts = engine.run_pass(number, request["record"], request.get("prefill_only", False))
            channel.send("pass_done", **{"pass": number}, **counts)
        elif kind == "records":
            _send_records(channel, engine)
        elif kind == "shutdown":
            return
        else:
            raise DriverError("protocol", _out_of_order(kind))


def _out_of_order(kind):
    known = {"load": "a model is loaded already", "pass": "a pass was asked for before a model was loaded"}
    return known.get(kind, f"a request is not one of the protocol: `{kind}`")


def _send_records(channel, engine):
    count = 0
    for record in engine.records():
        channel.queue("record", record=record)
        count += 1
    channel.send("records_done", records=count, peak_memory_bytes=engine.peak_memory_bytes())


def read_workload(path):
    """The requests of a workload file in its order: `index`, `prompt_ids`, `output_tokens` each."""
    requests = []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                requests.append(_request(line, number, path))
    except OSError as error:
        raise DriverError("workload_corrupt", f"the workload cannot be read: {error}") from error
    if not requests:
        raise DriverError("workload_corrupt", f"{path}: there is no request")
    return requests


def _request(line, number, path):
    try:
        request = json.loads(line)
        prompt, outputs = request["prompt_ids"], request["output_tokens"]
        is_whole = request["index"] == number - 1 and len(prompt) > 0 and outputs >= 1
        is_whole = is_whole and all(type(value) is int and value >= 0 for value in [*prompt, outputs])
    except (ValueError, TypeError, KeyError) as error:
        raise DriverError("workload_corrupt", f"{path}, line {number}: {error!r}") from error
    if not is_whole:
        raise DriverError("workload_corrupt", f"{path}, line {number}: not a request of that place with a prompt and an output")
    return request


def model_directory(model):
    """The directory of a `load` request's model, which drivers do not look up anywhere else."""
    return existing_directory("model", model["directory"])


def existing_directory(what, directory):
    """The directory, if it is one."""
    if not directory or not os.path.isdir(directory):
        raise DriverError("model_missing", f"the {what} directory {directory} does not exist")
    return directory


def seed(text):
    """The number of a `load` request's `random_seed`."""
    if text.isascii() and text.isdigit() and int(text) < 1 << 64:
        return int(text)
    raise DriverError("invalid_config", f"`random_seed` is `{text}`; it must be a whole number below 2^64")


def packages():
    """Every Python distribution that can be imported, by name with its version; the first on the path is the one in effect."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and distribution.version:
            found.setdefault(name, distribution.version)
    return dict(sorted(found.items()))


def kernel_field(path, key):
    """The first `key: value` line of a file of the kernel; `None` without one."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, colon, value = line.partition(":")
                if colon and name.strip() == key:
                    return value.strip()
    except OSError:
        pass
    return None


def processor():
    """The processor as a device of the protocol."""
    return {"kind": "cpu", "uuid": None, "name": kernel_field("/proc/cpuinfo", "model name")}


def peak_main_memory_bytes():
    """The most main memory that this process has occupied so far: `VmHWM` of proc_pid_status(5)."""
    kib = (kernel_field("/proc/self/status", "VmHWM") or "").removesuffix("kB").strip()
    return int(kib) * 1024 if kib.isdigit() else None


def _kind(error):
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(error):
    # File names can hold what is no Unicode; a lone surrogate is no JSON to the other side.
    return (str(error) or _kind(error))[:MAX_TEXT].encode("utf-8", "replace").decode()


def _causes(error):
    causes = []
    while len(causes) < MAX_CAUSES:
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if error is None:
            break
        causes.append(error)
    return causes

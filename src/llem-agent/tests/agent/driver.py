"""A small driver that speaks the real protocol and misbehaves as its first argument says."""

import json
import os
import signal
import subprocess
import sys
import time

FAULT = sys.argv[1] if len(sys.argv) > 1 else "none"
PASS_S = float(os.environ.get("PASS_S", "0.01"))
# Between the request for a pass and its beginning.
LATE_S = float(os.environ.get("LATE_S", "0"))
# Passes outside the window may be shorter.
OTHER_PASS_S = float(os.environ.get("OTHER_PASS_S", PASS_S))
# In static batches: how long the first token takes, and all others.
PREFILL_S = float(os.environ.get("PREFILL_S", "0.2"))
DECODE_S = float(os.environ.get("DECODE_S", "0.3"))
CHANNEL = os.dup(1)
os.dup2(2, 1)


def say(**message):
    data = (json.dumps(message) + "\n").encode()
    while data:
        data = data[os.write(CHANNEL, data) :]


def fault(name):
    return FAULT == name


def busy(state):
    """Tells the scripted GPU, where there is one, that it works from now on, or does not."""
    if "LOAD_FILE" in os.environ:
        with open(os.environ["LOAD_FILE"], "a") as file:
            file.write(f"{state} {time.monotonic_ns()}\n")


def hang():
    time.sleep(3600)


def tokens_of(line, prefill_only):
    return 1 if prefill_only else line["output_tokens"] + fault("padding_in_records") - fault("too_few_tokens")


def record_of(number, line, submit, stamps, batch=None):
    if fault("stamps_backwards"):
        stamps.reverse()
    return {
        "pass": number,
        "index": line["index"],
        "batch": batch,
        "prompt_tokens": len(line["prompt_ids"]),
        "submit_ns": submit,
        "token_ns": stamps,
        "output_ids": list(range(len(stamps))),
    }


def run_at_once(workload, number, prefill_only, seconds):
    """All tokens are there at once, and then the device works on nothing."""
    records = []
    for line in workload:
        submit = time.monotonic_ns()
        stamps = [time.monotonic_ns() for _ in range(tokens_of(line, prefill_only))]
        records.append(record_of(number, line, submit, stamps))
    busy("on")
    time.sleep(seconds)
    busy("off")
    return records


def run_in_batches(workload, number, prefill_only):
    """Static batches of two requests: the first token after PREFILL_S, the others together after DECODE_S more."""
    records = []
    for batch, lines in enumerate([workload[:2], workload[2:]]):
        submit = time.monotonic_ns()
        busy("on")
        time.sleep(PREFILL_S)
        first = time.monotonic_ns()
        time.sleep(0 if prefill_only else DECODE_S)
        last = time.monotonic_ns()
        busy("off")
        for line in lines:
            stamps = [first] + [last] * (tokens_of(line, prefill_only) - 1)
            records.append(record_of(number, line, submit, stamps, batch))
    return records


def run_pass(workload, number, prefill_only, seconds):
    time.sleep(LATE_S)
    start = time.monotonic_ns()
    if fault("batches"):
        records = run_in_batches(workload, number, prefill_only)
    else:
        records = run_at_once(workload, number, prefill_only, seconds)
    done = {
        "message": "pass_done",
        "pass": number,
        "start_ns": start,
        "end_ns": time.monotonic_ns(),
        "prompt_tokens": sum(len(line["prompt_ids"]) for line in workload),
        "output_tokens": sum(len(record["output_ids"]) for record in records),
    }
    if fault("padding_counted"):
        done["output_tokens"] *= 4
    return records, done


def at_import():
    if fault("exit_at_import"):
        print("ImportError: something is missing", file=sys.stderr)
        sys.exit(3)
    if fault("hang_at_import"):
        hang()
    if fault("garbage"):
        os.write(CHANNEL, b"a banner of the engine\n\n{\"half\": \xff\xfe\n[1, 2]\nno newline before the message {}\n")
    if fault("tells_its_pid"):
        with open(os.environ["PID_FILE"], "w") as file:
            file.write(str(os.getpid()))
    if fault("only_prints"):
        os.write(CHANNEL, b"one\ntwo\nthree\n")
        hang()
    if fault("flood"):
        block = b"x" * 1023 + b"\n"
        for _ in range(100 * 1024):
            os.write(2, block)
        os.write(2, b"after the flood\n")
    if fault("endless_line"):
        block = b"{" * 65536
        while True:
            os.write(CHANNEL, block)
    if fault("grandchild"):
        code = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(3600)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
        child.stdout.readline()
        with open(os.environ["PID_FILE"], "w") as file:
            file.write(str(child.pid))


def at_load():
    if fault("hang_in_load") or fault("tells_its_pid"):
        hang()
    if fault("out_of_memory"):
        say(message="error", kind="torch.OutOfMemoryError", text="CUDA out of memory. Tried to allocate 2 GiB")
        sys.exit(1)


def compile_stretches():
    """Two stretches in which the scripted GPU works, in a load of more than a second; or stretches that cannot be."""
    if not FAULT.startswith("compile"):
        return {}
    begun = time.monotonic_ns()
    stretches = []
    for seconds in [0.5, 0.4]:
        time.sleep(0.4)
        start = time.monotonic_ns()
        busy("on")
        time.sleep(seconds)
        busy("off")
        stretches.append({"start_ns": start, "end_ns": time.monotonic_ns()})
    time.sleep(0.4)
    if fault("compile_unordered"):
        stretches.reverse()
    if fault("compile_overlapping"):
        stretches[1]["start_ns"] = stretches[0]["end_ns"] - 1
    if fault("compile_before_the_load"):
        stretches[0]["start_ns"] = begun - 10_000_000_000
    if fault("compile_in_the_future"):
        stretches[1]["end_ns"] += 60_000_000_000
    if fault("compile_nothing"):
        stretches = []
    return {"compile": stretches}


def in_window():
    if fault("hang_in_window"):
        hang()
    if fault("die_in_window"):
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault("eat_memory"):
        hoard = []
        while True:
            hoard.append(b"x" * (8 << 20))
    if fault("exit_137"):
        os._exit(137)


def main():
    at_import()
    say(message="hello", protocol_version=2, engine="stand-in", engine_version="1.0", libraries={"python": "3"})
    workload, kept = [], []
    for line in sys.stdin:
        request = json.loads(line)
        kind = request["request"]
        if kind == "load":
            at_load()
            with open(request["workload"]) as file:
                workload = [json.loads(row) for row in file]
            devices = [{"kind": "gpu", "uuid": os.environ["GPU"]}] if "GPU" in os.environ else [{"kind": "cpu"}]
            loaded = {"parameters": 7, "dtype": "float32", "devices": devices, "settings": {}, "requests": len(workload)}
            say(message="loaded", **loaded, **compile_stretches())
        elif kind == "pass":
            if request["record"]:
                in_window()
            seconds = PASS_S if request["record"] else OTHER_PASS_S
            records, done = run_pass(workload, request["pass"], request["prefill_only"], seconds)
            if request["record"]:
                kept.extend(records)
            say(**done)
        elif kind == "records":
            if fault("hang_in_collect"):
                hang()
            if fault("forgets_a_record"):
                kept.pop()
            if fault("record_twice"):
                kept[-1] = kept[0]
            for record in kept:
                say(message="record", record=record)
            say(message="records_done", records=len(kept), peak_memory_bytes=1024)
        elif kind == "shutdown":
            if fault("slow_to_leave"):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                hang()
            return


main()

"""A stand-in for llem's driver of PyTorch where a compiler would be at work: leaves files where inductor and Triton are told to, says whether
it found them, and writes over what it found. Speaks the protocol with the driver's own channel, whose directory is its argument."""

import os
import pathlib
import sys
import time

sys.path.insert(0, sys.argv[1])
import llem_channel

KERNELS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


class Engine:
    """Compiles nothing and generates token 1."""

    def hello(self):
        return {"engine": "pytorch", "engine_version": "0", "libraries": {}}

    def load(self, spec, requests, ignore_eos):
        self._requests, self._records, start_ns = requests, [], time.monotonic_ns()
        found = []
        for name in KERNELS:
            kernel = pathlib.Path(os.environ[name]) / "ab" / "kernel.so"
            found.append(kernel.read_text() if kernel.exists() else None)
            kernel.parent.mkdir(parents=True, exist_ok=True)
            kernel.write_text(name if found[-1] is None else "written over")
        if os.environ.get("COMPILER_LEAVES_LINK"):
            (kernel.parent / "link").symlink_to("/etc/passwd")
        time.sleep(0.2)
        compile = [{"start_ns": start_ns, "end_ns": time.monotonic_ns()}]
        device = {"kind": "cpu", "uuid": None, "name": "stand-in"}
        return {"parameters": None, "dtype": "float32", "devices": [device], "settings": {"found": found}, "compile": compile}

    def run_pass(self, number, record, prefill_only):
        start_ns, made = time.monotonic_ns(), []
        for request in self._requests:
            submit_ns, count = time.monotonic_ns(), 1 if prefill_only else request["output_tokens"]
            stamps = []
            for _ in range(count):
                time.sleep(0.0005)
                stamps.append(time.monotonic_ns())
            fields = {"pass": number, "index": request["index"], "batch": None, "prompt_tokens": len(request["prompt_ids"])}
            made.append({**fields, "submit_ns": submit_ns, "token_ns": stamps, "output_ids": [1] * count})
        if record:
            self._records += made
        prompts, outputs = sum(one["prompt_tokens"] for one in made), sum(len(one["output_ids"]) for one in made)
        return {"start_ns": start_ns, "end_ns": time.monotonic_ns(), "prompt_tokens": prompts, "output_tokens": outputs}

    def records(self):
        kept, self._records = self._records, []
        return kept

    def peak_memory_bytes(self):
        return None


llem_channel.serve(Engine)

"""vLLM: the workload through its scheduler, with the engine's own stamp for every token.

All requests of a pass are handed over in the workload's order before the first step is made; vLLM schedules them up to `max_num_seqs`.
Prompts go in as token ids, and no text is made of the answers. With the engine's core in this process, that is all; with a process of
its own, its scheduler sleeps meanwhile."""

import time

import llem_engine
import llem_environment
import llem_settings
import llem_torch
import vllm
from llem_channel import DriverError
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

LIBRARIES = (
    *("torch", "transformers", "triton", "flashinfer-python", "flash-attn", "xgrammar", "numpy", "safetensors", "tokenizers"),
    "compressed-tensors",
)
NS = 1_000_000_000


class Engine:
    """A loaded model with the workload that it is to run."""

    def __init__(self):
        self._records = []

    def hello(self):
        """Name and versions."""
        return {"engine": "vllm", "engine_version": vllm.__version__, "libraries": llem_torch.libraries(LIBRARIES)}

    def load(self, spec, requests, ignore_eos):
        """Checks all that can be checked before, loads the model, and prepares the requests."""
        self._settings = settings = llem_settings.read(spec)
        llem_engine.check_arguments(settings)
        llem_engine.check_device(settings)
        self._in_process = llem_environment.choose_processes(settings.world_size)
        self._lora = llem_engine.adapter_request(settings)
        config = llem_engine.configure(settings)
        llem_engine.check_requests(requests, config)
        self._ignore_eos = ignore_eos
        self._eos_ids = [] if ignore_eos else llem_engine.eos_ids(config)
        self._requests = requests
        self._prompts = [{"prompt_token_ids": request["prompt_ids"]} for request in requests]
        self._sampling = {prefill: [self._params(request, prefill) for request in requests] for prefill in (False, True)}
        self._engine = engine = llem_engine.start(config)
        self._adapted = self._lora and llem_engine.apply_adapter(engine, self._lora)
        facts = engine.collective_rpc("llem_facts")
        return {
            "parameters": _parameters(facts, config),
            "dtype": facts[0]["dtype"] or str(config.model_config.dtype).removeprefix("torch."),
            "devices": _once(fact["device"] for fact in facts),
            "settings": {**llem_engine.in_effect(engine.vllm_config, facts[0]), **self._own_settings()},
            "compile": _merged(facts) if llem_engine.compiles(engine.vllm_config) else [],
        }

    def _params(self, request, prefill_only):
        """With `min_tokens`, vLLM would keep the end-of-sequence token from being chosen: other tokens than the other engines'."""
        return SamplingParams(
            max_tokens=1 if prefill_only else request["output_tokens"],
            ignore_eos=self._ignore_eos,
            stop_token_ids=self._eos_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **self._settings.sampling,
        )

    def _own_settings(self):
        return {
            "device": self._settings.device,
            "engine_core": "in_process" if self._in_process else "own_process",
            "eos_token_ids": self._eos_ids,
            "sampling": "greedy" if self._is_greedy() else self._settings.sampling,
            "lora": self._lora and {"directory": self._lora.lora_path, "merged": False, "layers": self._adapted},
            "extra": {key.removeprefix("vllm.extra."): self._settings.arguments[argument] for argument, key in self._extras()},
        }

    def _extras(self):
        return [(argument, key) for argument, key in self._settings.keys.items() if key.startswith("vllm.extra.")]

    def _is_greedy(self):
        return self._settings.sampling["temperature"] == 0

    def run_pass(self, number, record, prefill_only):
        """Runs the whole workload once. Every pass has the same random numbers, so that sampling gives every pass the same work."""
        if not self._is_greedy():
            self._engine.collective_rpc("llem_seed", args=(self._settings.seed,))
        if not self._in_process:
            self._engine.sleep(level=0)
        self._engine.collective_rpc("llem_synchronize")
        start_ns = time.monotonic_ns()
        submitted, steps = self._generate(self._sampling[prefill_only])
        self._engine.collective_rpc("llem_synchronize")
        end_ns = time.monotonic_ns()
        # Counting and keeping is not the engine's work.
        taken = self._taken(steps)
        records = [self._record(number, place, submitted[place], taken[place]) for place in range(len(taken))]
        for made, params in zip(records, self._sampling[prefill_only]):
            self._check(made, params.max_tokens, end_ns)
        if record:
            self._records += records
        return {
            "start_ns": start_ns,
            "end_ns": end_ns,
            "prompt_tokens": sum(made["prompt_tokens"] for made in records),
            "output_tokens": sum(len(made["output_ids"]) for made in records),
        }

    def _generate(self, sampling):
        """When each request was handed over, and what the engine's core made in each step.

        Looking at every token of every request would be work that `LLM.generate` does not do, about a millisecond for 256 requests: the
        core's own messages are kept as they are, and read when the pass is over."""
        engine, core, monotonic_ns = self._engine, self._engine.engine_core, time.monotonic_ns
        submitted, steps, get_output = [], [], core.get_output
        for place, (prompt, params) in enumerate(zip(self._prompts, sampling)):
            submitted.append(monotonic_ns())
            engine.add_request(str(place), prompt, params, lora_request=self._lora)
        if not self._in_process:
            engine.wake_up(tags=["scheduling"])

        def kept():
            steps.append(get_output())
            return steps[-1]

        core.get_output = kept
        try:
            while engine.has_unfinished_requests():
                engine.step()
        finally:
            del core.get_output
        return submitted, steps

    def _taken(self, steps):
        """Each request's steps: the core's stamp and the tokens that it made."""
        taken = [[] for _ in self._requests]
        for step in steps:
            for output in step.outputs:
                # vLLM makes names unique by what it appends.
                place = int(output.request_id.partition("-")[0])
                taken[place].append((step.timestamp, output.new_token_ids))
        return taken

    def _record(self, number, place, submit_ns, steps):
        request = self._requests[place]
        return {
            "pass": number,
            "index": request["index"],
            "batch": None,
            "prompt_tokens": len(request["prompt_ids"]),
            "submit_ns": submit_ns,
            "token_ns": [int(stamp * NS) for stamp, ids in steps for _ in ids],
            "output_ids": [token for _, ids in steps for token in ids],
        }

    def _check(self, record, asked, end_ns):
        """Requests can end early when vLLM's limits do not hold what ours say; stamps are only good if they are of the same clock."""
        name, count = f"request {record['index']}", len(record["output_ids"])
        if count > asked or (self._ignore_eos and count != asked):
            raise DriverError("wrong_work", f"vLLM generated {count} tokens for {name}, asked {asked}")
        stamps = [record["submit_ns"], *record["token_ns"], end_ns]
        if stamps != sorted(stamps):
            raise DriverError("protocol", f"vLLM's stamps for {name} are not in the order of time of the pass: {stamps[:4]} …")

    def records(self):
        """The kept records, once."""
        kept, self._records = self._records, []
        return kept

    def peak_memory_bytes(self):
        """The sum over the devices. Never reset, so that the load counts."""
        peaks = dict(self._engine.collective_rpc("llem_peak_memory"))
        return None if None in peaks.values() else sum(peaks.values())


def _parameters(facts, config):
    """Shares of several workers overlap; kernels of quantised layers and those for processors keep weights packed elsewhere."""
    is_plain = len(facts) == 1 and facts[0]["device"]["kind"] == "gpu" and config.model_config.quantization is None
    return facts[0]["parameters"] if is_plain else None


def _once(devices):
    """Workers on processors have one device together."""
    found = []
    for device in devices:
        if device not in found:
            found.append(device)
    return found


def _merged(facts):
    """Stretches of all workers, in order and without overlaps."""
    merged = []
    for stretch in sorted((stretch for fact in facts for stretch in fact["stretches"]), key=lambda stretch: stretch["start_ns"]):
        if merged and stretch["start_ns"] <= merged[-1]["end_ns"]:
            merged[-1]["end_ns"] = max(merged[-1]["end_ns"], stretch["end_ns"])
        else:
            merged.append(dict(stretch))
    return merged

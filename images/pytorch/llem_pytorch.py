"""PyTorch with transformers: a model on its devices and the workload in static batches through `generate`.

Fits transformers 4.57 and 5. Batches are left-padded to their longest prompt; the next one begins when the last request of the one
before is done. A request that is shorter than its batch is computed further, as `generate` does; what follows its own end is not
counted. Of the model's `generation_config.json` only the special tokens are used: the experiment decides the rest."""

import dataclasses
import importlib.metadata
import os
import platform
import random
import time

import torch
import transformers
from llem_channel import DriverError, peak_main_memory_bytes
import llem_model
import llem_settings

LIBRARIES = ("transformers", "accelerate", "safetensors", "tokenizers", "triton", "flash-attn")


@dataclasses.dataclass
class Batch:
    """Requests that are generated together, padded, in main memory."""

    requests: list
    ids: torch.Tensor
    mask: torch.Tensor

    def output_tokens(self, index, prefill_only):
        """The most tokens that request `index` of the batch generates."""
        return 1 if prefill_only else self.requests[index]["output_tokens"]

    def longest_output(self, prefill_only):
        """Tokens that are generated for the batch."""
        return max(self.output_tokens(index, prefill_only) for index in range(len(self.requests)))


class Stamps(transformers.generation.streamers.BaseStreamer):
    """When each step's tokens had come to main memory, which is after the device had made them."""

    def __init__(self):
        self.token_ns = []
        self._has_prompt = False

    def put(self, value):
        """Called with the prompt first, then with each step's tokens."""
        if self._has_prompt:
            self.token_ns.append(time.monotonic_ns())
        self._has_prompt = True

    def end(self):
        """Called after the last step."""


class Engine:
    """A loaded model with the workload that it is to run."""

    def __init__(self):
        transformers.utils.logging.disable_progress_bar()
        self._records = []

    def hello(self):
        """Name and versions."""
        libraries = {"python": platform.python_version(), **_distributions(), **_cuda_libraries()}
        return {"engine": "pytorch", "engine_version": str(torch.__version__), "libraries": libraries}

    def load(self, spec, requests, ignore_eos):
        """Loads the model, looks where it is, and prepares the batches."""
        self._settings = settings = llem_settings.read(spec)
        device_map = llem_model.choose_device(settings.device_map)
        llem_model.apply_switches(settings)
        self._model = model = llem_model.load(settings, device_map)
        self._devices = llem_model.devices(model, device_map)
        dtype = llem_model.dtype(model, settings.dtype)
        self._eos_ids, pad_id = llem_model.special_tokens(model, ignore_eos)
        model.generation_config = self._generation_config(pad_id)
        llem_model.check_requests(requests, model)
        sliced = range(0, len(requests), settings.batch_size)
        self._batches = [_batch(requests[start : start + settings.batch_size], pad_id) for start in sliced]
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dtype": dtype,
            "devices": [llem_model.describe(device) for device in self._devices],
            "settings": self._in_effect(dtype, device_map),
        }

    def _generation_config(self, pad_id):
        settings = self._settings
        given = {"cache_implementation": settings.cache, "use_cache": settings.use_cache}
        return transformers.GenerationConfig(
            do_sample=bool(settings.sampling),
            eos_token_id=self._eos_ids or None,
            pad_token_id=pad_id,
            **settings.sampling,
            **{key: value for key, value in given.items() if value is not None},
        )

    def _in_effect(self, dtype, device_map):
        config = self._model.generation_config
        return {
            "batch_size": self._settings.batch_size,
            "device_map": device_map,
            "dtype": dtype,
            "attn_implementation": self._model.config._attn_implementation,
            "use_cache": config.use_cache is not False,
            "cache_implementation": None if config.use_cache is False else config.cache_implementation or "dynamic",
            "eos_token_ids": self._eos_ids,
            "pad_token_id": config.pad_token_id,
            "sampling": self._settings.sampling or "greedy",
            "num_threads": torch.get_num_threads(),
            "allow_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "cublas_workspace_config": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "extra": self._settings.extra,
        }

    @torch.inference_mode()
    def run_pass(self, number, record, prefill_only):
        """Runs the whole workload once. Every pass has the same random numbers, so that sampling gives every pass the same work."""
        random.seed(self._settings.seed)
        torch.manual_seed(self._settings.seed)
        self._synchronize()
        start_ns = time.monotonic_ns()
        generated = [self._generate(batch, prefill_only) for batch in self._batches]
        self._synchronize()
        end_ns = time.monotonic_ns()
        # Counting and keeping is not the engine's work.
        records = [made for place, rows in enumerate(generated) for made in self._cut(number, place, prefill_only, *rows)]
        if record:
            self._records += records
        return {
            "start_ns": start_ns,
            "end_ns": end_ns,
            "prompt_tokens": sum(made["prompt_tokens"] for made in records),
            "output_tokens": sum(len(made["output_ids"]) for made in records),
        }

    def _generate(self, batch, prefill_only):
        stamps = Stamps()
        submit_ns = time.monotonic_ns()
        generated = self._model.generate(
            input_ids=batch.ids.to(self._model.device),
            attention_mask=batch.mask.to(self._model.device),
            max_new_tokens=batch.longest_output(prefill_only),
            streamer=stamps,
        )
        return submit_ns, stamps.token_ns, generated[:, batch.ids.shape[1] :]

    def _cut(self, number, place, prefill_only, submit_ns, token_ns, generated):
        """The records of a batch: each request ends at its own length or at its own end-of-sequence token, which counts."""
        batch, rows = self._batches[place], generated.tolist()
        if len(token_ns) != generated.shape[1]:
            raise DriverError("wrong_work", f"`generate` made {generated.shape[1]} tokens in {len(token_ns)} steps")
        for index, (request, row) in enumerate(zip(batch.requests, rows)):
            output_ids = _until_end(row[: batch.output_tokens(index, prefill_only)], self._eos_ids)
            yield {
                "pass": number,
                "index": request["index"],
                "batch": place,
                "prompt_tokens": len(request["prompt_ids"]),
                "submit_ns": submit_ns,
                "token_ns": token_ns[: len(output_ids)],
                "output_ids": output_ids,
            }

    def _synchronize(self):
        for device in self._devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    def records(self):
        """The kept records, once."""
        kept, self._records = self._records, []
        return kept

    def peak_memory_bytes(self):
        """The most memory that tensors occupied at once, from loading on: what the devices must have. On the processor, the most
        that the process occupied. Never reset, so that the load counts. Without CUDA's own context and the allocator's reserve."""
        peaks = [torch.cuda.max_memory_allocated(device) for device in self._devices if device.type == "cuda"]
        return sum(peaks) if peaks else peak_main_memory_bytes()


def _distributions():
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cuda_libraries():
    """Versions of what PyTorch was built with; none in a build for processors."""
    if torch.version.cuda is None:
        return {}
    found = {"cuda": torch.version.cuda}
    if torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def _batch(requests, pad_id):
    width = max(len(request["prompt_ids"]) for request in requests)
    padding = [width - len(request["prompt_ids"]) for request in requests]
    ids = [[pad_id] * pads + request["prompt_ids"] for pads, request in zip(padding, requests)]
    mask = [[0] * pads + [1] * (width - pads) for pads in padding]
    return Batch(requests, torch.tensor(ids), torch.tensor(mask))


def _until_end(row, eos_ids):
    ends = [place for place, token in enumerate(row) if token in eos_ids]
    return row[: ends[0] + 1] if ends else row

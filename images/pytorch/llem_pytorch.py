"""PyTorch with transformers: a model on its devices and the workload in static batches through `generate`.

Fits transformers 4.57 and 5. Batches are left-padded to their longest prompt; the next one begins when the last request of the one
before is done. A request that is shorter than its batch is computed further, as `generate` does; what follows its own end is not
counted. Of the model's `generation_config.json` only the special tokens are used: the experiment decides the rest."""

import random
import time

import torch
import transformers
from llem_channel import DriverError, peak_main_memory_bytes
import llem_adapter
from llem_batch import Batch, Stamps, until_end
import llem_cache
from llem_compile import Compilation, graphs
import llem_model
import llem_quantization
import llem_settings
from llem_speculation import Speculation
import llem_torch

LIBRARIES = (
    *("transformers", "accelerate", "safetensors", "tokenizers", "triton", "flash-attn", "peft", "kernels"),
    *("bitsandbytes", "gptqmodel", "torchao", "optimum-quanto", "hqq", "compressed-tensors"),
)


class Engine:
    """A loaded model with the workload that it is to run."""

    def __init__(self):
        transformers.utils.logging.disable_progress_bar()
        self._records = []

    def hello(self):
        """Name and versions."""
        libraries = llem_torch.libraries(LIBRARIES)
        return {"engine": "pytorch", "engine_version": str(torch.__version__), "libraries": libraries}

    def load(self, spec, requests, ignore_eos):
        """Loads the model, looks where and what it is, prepares the batches, and compiles what is to be compiled."""
        self._settings = settings = llem_settings.read(spec)
        self._device_map = llem_model.choose_device(settings.device_map)
        llem_model.apply_switches(settings)
        model = llem_model.load(settings, self._device_map)
        self._quantization = llem_quantization.in_effect(model, settings.quantization)
        # Packed weights have fewer elements than the model has parameters.
        parameters = None if self._quantization else sum(parameter.numel() for parameter in model.parameters())
        self._lora = None
        if settings.lora is not None:
            model, self._lora = llem_adapter.apply(model, settings.lora)
        self._model = model
        self._speculation = Speculation(settings, model, self._device_map)
        models = [model, *self._speculation.models()]
        self._devices = sorted({device for one in models for device in llem_model.devices(one, self._device_map)}, key=str)
        dtype = llem_model.dtype(model, settings.dtype)
        self._eos_ids, pad_id = llem_model.special_tokens(model, ignore_eos)
        self._speculation.prepare(pad_id)
        llem_model.check_requests(requests, model)
        sliced = range(0, len(requests), settings.batch_size)
        self._batches = [Batch.of(requests[start : start + settings.batch_size], pad_id) for start in sliced]
        llem_cache.check(settings, self._batches, self._device_map)
        self._compilation = Compilation(settings, model)
        model.generation_config = self._generation_config(pad_id)
        stretches = self._compile() if self._compilation.is_on else []
        return {
            "parameters": parameters,
            "dtype": dtype,
            "devices": [llem_torch.describe(device) for device in self._devices],
            "settings": self._in_effect(dtype),
            "compile": stretches,
        }

    @torch.inference_mode()
    def _compile(self):
        def run(batch):
            self._generate(batch, prefill_only=False)
            self._synchronize()

        return self._compilation.compile(self._batches, run)

    def _generation_config(self, pad_id):
        settings = self._settings
        given = {
            "cache_implementation": settings.cache,
            "max_cache_len": settings.max_cache_len,
            "use_cache": settings.use_cache,
            **self._compilation.generation,
        }
        return transformers.GenerationConfig(
            do_sample=bool(settings.sampling),
            eos_token_id=self._eos_ids or None,
            pad_token_id=pad_id,
            **settings.sampling,
            **{key: value for key, value in given.items() if value is not None},
        )

    def _in_effect(self, dtype):
        config, settings = self._model.generation_config, self._settings
        return {
            "batch_size": settings.batch_size,
            "device_map": self._device_map,
            "dtype": dtype,
            "attn_implementation": self._model.config._attn_implementation,
            "experts_implementation": getattr(self._model.config, "_experts_implementation", None),
            "use_kernels": getattr(self._model, "use_kernels", False),
            "trust_remote_code": settings.load.get("trust_remote_code", False),
            "use_cache": config.use_cache is not False,
            "cache_implementation": None if config.use_cache is False else config.cache_implementation or "dynamic",
            "max_cache_len": settings.max_cache_len,
            "compile": self._compilation.in_effect(),
            "quantization": self._quantization,
            "lora": self._lora,
            "speculative": self._speculation.in_effect(),
            "eos_token_ids": self._eos_ids,
            "pad_token_id": config.pad_token_id,
            "sampling": settings.sampling or "greedy",
            **llem_model.switches(),
            "extra": settings.extra,
        }

    @torch.inference_mode()
    def run_pass(self, number, record, prefill_only):
        """Runs the whole workload once. Every pass has the same random numbers, so that sampling gives every pass the same work."""
        random.seed(self._settings.seed)
        torch.manual_seed(self._settings.seed)
        compiled = graphs()
        self._synchronize()
        start_ns = time.monotonic_ns()
        generated = [self._generate(batch, prefill_only) for batch in self._batches]
        self._synchronize()
        end_ns = time.monotonic_ns()
        if record and graphs() > compiled:
            raise DriverError("wrong_work", "something was compiled while it was measured; raise `measurement.warmup_passes`")
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
            **self._speculation.arguments(),
        )
        return submit_ns, stamps.token_ns, generated[:, batch.ids.shape[1] :]

    def _cut(self, number, place, prefill_only, submit_ns, token_ns, generated):
        """The records of a batch: each request ends at its own length or at its own end-of-sequence token, which counts."""
        batch, rows = self._batches[place], generated.tolist()
        if len(token_ns) != generated.shape[1]:
            raise DriverError("wrong_work", f"`generate` made {generated.shape[1]} tokens and gave stamps for {len(token_ns)}")
        asked = batch.longest_output(prefill_only)
        if not self._eos_ids and generated.shape[1] != asked:
            raise DriverError("wrong_work", f"`generate` made {generated.shape[1]} tokens where {asked} were asked for")
        for index, (request, row) in enumerate(zip(batch.requests, rows)):
            output_ids = until_end(row[: batch.output_tokens(index, prefill_only)], self._eos_ids)
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

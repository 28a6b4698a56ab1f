"""TensorRT-LLM through its LLM API: the PyTorch path, or a compiled engine.

All requests of a pass are handed over in the workload's order, and every token is stamped when it has come to this process. The engine
itself stamps the first and the last only; what lies between theirs and ours goes to the log, and no figure is corrected by it."""

import asyncio
import importlib.metadata
import os
import platform
import statistics
import sys
import time

import tensorrt_llm
import torch
from llem_channel import DriverError
import llem_arguments
import llem_checkpoint
import llem_compiled
import llem_engines
import llem_options
from llem_stream import Stream
from tensorrt_llm import SamplingParams

LIBRARIES = ("tensorrt", "transformers", "nvidia-modelopt", "flashinfer-python", "triton", "mpi4py")
# Arguments in effect that say how the engine computes.
REPORTED = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "context_parallel_size",
    "moe_expert_parallel_size",
    "moe_tensor_parallel_size",
    "enable_attention_dp",
    "max_batch_size",
    "max_input_len",
    "max_seq_len",
    "max_num_tokens",
    "enable_chunked_prefill",
    "load_format",
    "kv_cache_config",
    "scheduler_config",
    "speculative_config",
    "cuda_graph_config",
    "attn_backend",
    "sampler_type",
    "disable_overlap_scheduler",
    "torch_compile_config",
    "enable_autotuner",
    "moe_config",
    "allreduce_strategy",
    "batching_type",
    "extended_runtime_perf_knob_config",
)


class Engine:
    """A loaded model with the workload that it is to run."""

    def __init__(self):
        self._records, self._lags = [], []
        self._engines = llem_engines.Engines(os.environ)
        # One for all passes: the engine gives its answers to the loop that a request was made in.
        self._loop = asyncio.new_event_loop()

    def hello(self):
        """Name and versions."""
        libraries = {"python": platform.python_version(), "torch": str(torch.__version__), **_distributions()}
        if torch.version.cuda is not None:
            libraries["cuda"] = torch.version.cuda
        if "tensorrt" in sys.modules:
            libraries["tensorrt"] = sys.modules["tensorrt"].__version__
        return {"engine": "tensorrt", "engine_version": tensorrt_llm.__version__, "libraries": libraries}

    def load(self, spec, requests, ignore_eos):
        """Loads the model, building its engine first where there is none."""
        self._settings = settings = llem_options.read(spec)
        self._requests, self._ignore_eos = requests, ignore_eos
        devices = _devices(settings.gpus())
        checkpoint = llem_checkpoint.Checkpoint(settings.model)
        checkpoint.refuse_what_no_path_reads()
        self._eos_ids = checkpoint.eos_ids()
        if settings.engine == llem_options.TENSORRT:
            compile, dtype, described = self._load_compiled(checkpoint)
        else:
            compile, dtype, described = self._load_pytorch(checkpoint)
        return {
            "parameters": None,
            "dtype": dtype,
            "devices": devices,
            "settings": {**self._in_effect(), **described},
            "compile": compile,
        }

    def _load_pytorch(self, checkpoint):
        self._engines.refuse_any()
        settings = self._settings
        dtype = checkpoint.dtype_of_pytorch_path(settings.dtype)
        limits = {"max_seq_len": settings.arguments.get("max_seq_len")}
        if not settings.arguments.get("enable_chunked_prefill"):
            limits["max_num_tokens"] = settings.arguments.get("max_num_tokens", 8192)
        checkpoint.check_requests(self._requests, limits)
        self._llm = tensorrt_llm.LLM(
            model=settings.model, dtype=settings.dtype, skip_tokenizer_init=True, **llem_arguments.make(settings.arguments)
        )
        return [], dtype, {}

    def _load_compiled(self, checkpoint):
        settings = self._settings
        llm_class = llem_compiled.llm_class()
        directory, config, compile = self._engines.ready(settings)
        chunked = settings.arguments.get("enable_chunked_prefill")
        limits = {"max_seq_len": config["build_config"].get("max_seq_len")} if chunked else config["build_config"]
        checkpoint.check_requests(self._requests, limits)
        arguments = llem_arguments.make(llem_compiled.runtime_arguments(settings.arguments))
        with llem_engines.staleness():
            self._llm = llm_class(model=directory, skip_tokenizer_init=True, **arguments)
        described = {key: llem_arguments.plain(config[key]) for key in ("build_config", "pretrained_config")}
        described["compiled_engine"] = "built" if compile else "loaded"
        return compile, config["pretrained_config"]["dtype"], described

    def _in_effect(self):
        arguments = self._llm.args
        given = {name: getattr(arguments, name) for name in REPORTED if hasattr(arguments, name)}
        return {
            "engine": self._settings.engine,
            **{name: llem_arguments.plain(value) for name, value in given.items()},
            "extra": {key: value for key, value in self._settings.arguments.items() if key not in given},
            "sampling": self._settings.sampling or "greedy",
            "eos_token_ids": self._eos_ids,
            "token_stamps": "received by the driver",
        }

    def run_pass(self, number, record, prefill_only):
        """Runs the whole workload once. Every pass has the same seeds, so that sampling gives every pass the same work."""
        parameters = [self._parameters(request, prefill_only) for request in self._requests]
        start_ns = time.monotonic_ns()
        streams = self._loop.run_until_complete(self._generate_all(parameters))
        end_ns = time.monotonic_ns()
        # Counting, checking and keeping is not the engine's work.
        records = [self._record(number, request, stream) for request, stream in zip(self._requests, streams)]
        if record:
            self._records += records
            self._lags += [lag for stream in streams if (lag := stream.lag_ns()) is not None]
        return {
            "start_ns": start_ns,
            "end_ns": end_ns,
            "prompt_tokens": sum(made["prompt_tokens"] for made in records),
            "output_tokens": sum(len(made["output_ids"]) for made in records),
        }

    def _parameters(self, request, prefill_only):
        tokens = 1 if prefill_only else request["output_tokens"]
        sampling = self._settings.sampling
        if sampling:
            # Requests with the same prompt shall not have the same output.
            sampling = {**sampling, "seed": (self._settings.seed + request["index"]) % (1 << 64)}
        end_id = self._eos_ids[0] if self._eos_ids else -1
        return SamplingParams(
            max_tokens=tokens,
            min_tokens=tokens if self._ignore_eos else None,
            ignore_eos=self._ignore_eos,
            # The engine has no tokenizer to ask. Padding is masked: any token will do.
            end_id=end_id,
            pad_id=max(end_id, 0),
            stop_token_ids=None if self._ignore_eos else self._eos_ids[1:] or None,
            include_stop_str_in_output=True,
            detokenize=False,
            return_perf_metrics=True,
            **sampling,
        )

    async def _generate_all(self, parameters):
        streams, tasks = [], []
        for request, asked in zip(self._requests, parameters):
            stream = Stream(self._llm, request["prompt_ids"], asked)
            streams.append(stream)
            tasks.append(asyncio.ensure_future(stream.receive()))
            # What has come meanwhile is stamped before the next request is handed over.
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return streams

    def _record(self, number, request, stream):
        if stream.cached_tokens() and not self._settings.keeps_blocks():
            text = f"request {request['index']}: {stream.cached_tokens()} prompt tokens came from the cache, and blocks are not to be kept"
            raise DriverError("wrong_work", text)
        return {
            "pass": number,
            "index": request["index"],
            "batch": None,
            "prompt_tokens": stream.prompt_tokens(),
            "submit_ns": stream.submit_ns,
            "token_ns": stream.token_ns,
            "output_ids": stream.whole_output(),
        }

    def records(self):
        """The kept records, once."""
        if self._lags:
            first, last = zip(*self._lags)
            middle = [statistics.median(lags) / 1e3 for lags in (first, last)]
            text = f"first token {middle[0]:.0f} us, last token {middle[1]:.0f} us, most {max(first + last) / 1e3:.0f} us"
            print(f"llem: received after the engine's own stamp, median of {len(first)} requests: {text}", file=sys.stderr, flush=True)
        kept, self._records, self._lags = self._records, [], []
        return kept

    def peak_memory_bytes(self):
        """Unknown: the model is in processes of the engine, which do not say."""
        return None

    def close(self):
        """Leaves the engine to the agent: its own shutdown can hang. An engine that is not to be kept is removed."""
        self._engines.close()


def _distributions():
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _devices(count):
    if not torch.cuda.is_available():
        raise DriverError("no_gpu", "TensorRT-LLM computes on GPUs only, and finds none that it can use")
    if torch.cuda.device_count() < count:
        raise DriverError("no_gpu", f"{count} GPUs are asked for, and {torch.cuda.device_count()} are there")
    # The engine's worker of rank N computes on device N.
    return [_describe(torch.cuda.get_device_properties(index)) for index in range(count)]


def _describe(properties):
    uuid = getattr(properties, "uuid", None)
    return {"kind": "gpu", "uuid": uuid and f"GPU-{str(uuid).removeprefix('GPU-')}", "name": properties.name}

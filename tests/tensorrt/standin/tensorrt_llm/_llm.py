"""Both `LLM` classes."""

import json
import pathlib
import shutil
import tempfile

import torch

from . import _plan
from ._classes import CLASSES, SamplingParams, ValidationError
from ._executor import Executor, RequestOutput
from standin import FACTS, SCRIPT, fail, tell

TENSORRT_ONLY = FACTS["llm"]["tensorrt"].keys() - FACTS["llm"]["pytorch"].keys()


class BaseLLM:
    """What both have in common."""

    path = ""

    def __init__(self, model, **given):
        args_class = CLASSES["TorchLlmArgs" if self.path == "pytorch" else "TrtLlmArgs"]
        for key in given:
            if key not in args_class.model_fields:
                raise ValueError(f"{type(self).__name__} got invalid argument: {key}")
        self.args = args_class(model=str(model), **given)
        self._check()
        world = self.args.tensor_parallel_size * self.args.pipeline_parallel_size * self.args.context_parallel_size
        if world > torch.cuda.device_count():
            raise RuntimeError(f"Only {torch.cuda.device_count()} GPUs are available, but {world} are required.")
        self._world, self._engine_dir = world, None
        vocabulary = self._load()
        self._executor = Executor(vocabulary, self.args.max_batch_size, self.args.kv_cache_config)

    def _check(self):
        args, owner = self.args, type(self.args).__name__
        if args.dtype == "bfloat16" and torch.cuda.get_device_properties(0).major < 8:
            raise RuntimeError("Pre SM 80 GPUs do not support bfloat16")
        speculative = args.speculative_config
        if speculative is not None and type(speculative).__name__ not in FACTS["speculative"][self.path]:
            text = f"Value error, Speculation type {type(speculative).__name__} does not support backend {self.path}"
            raise ValidationError(owner, "", text, "value_error")

    def generate_async(self, inputs, sampling_params=None, streaming=False):
        """One request; returns at once."""
        if not isinstance(sampling_params, SamplingParams):
            raise TypeError(f"The sampling_params must be type SamplingParams or None, but got {type(sampling_params)}")
        if sampling_params.end_id is None:
            assert self.args.skip_tokenizer_init, "the stand-in has no tokenizer"
            raise ValueError("tokenizer is required to reset end_id if it is None, or you can explicitly specify the end_id for sampling_params")
        self._check_lengths(len(inputs), sampling_params)
        tell("generate", prompt=len(inputs), parameters=sampling_params.dump(), streaming=streaming)
        request = RequestOutput(inputs, sampling_params, streaming)
        self._executor.submit(request)
        return request

    def shutdown(self):
        """Hangs, as the real one can: nobody is to wait for it."""
        raise AssertionError("shutdown was called")


class TorchLLM(BaseLLM):
    """`tensorrt_llm.LLM`."""

    path = "pytorch"

    def __init__(self, model, **given):
        if wrong := sorted(given.keys() & TENSORRT_ONLY):
            text = f"The following arguments are specific to TensorRT backend and cannot be used with PyTorch backend: {wrong}."
            raise ValueError(text)
        super().__init__(model, **given)

    def _load(self):
        tell("load", directory=self.args.model, arguments=self.args.dump())
        fail("load")
        return json.loads((pathlib.Path(self.args.model) / "config.json").read_text())["vocab_size"]

    def _check_lengths(self, prompt, parameters):
        if not self.args.enable_chunked_prefill and prompt > self.args.max_num_tokens:
            text = f"The sum of prompt length ({prompt}), query length (0) should not exceed max_num_tokens ({self.args.max_num_tokens})"
            raise ValueError(text)


class TrtLLM(BaseLLM):
    """`tensorrt_llm._tensorrt_engine.LLM`."""

    path = "tensorrt"

    def _check(self):
        super()._check()
        if self.args.kv_cache_config.dtype != "auto":
            text = "Assertion failed, KvCacheConfig.dtype is not supported by the TensorRT backend."
            raise ValidationError("TrtLlmArgs", "", text, "assertion_error")

    def _load(self):
        if _plan.is_engine(self.args.model):
            self._engine_dir = pathlib.Path(self.args.model)
        else:
            self.args.build_config = self.args.build_config or CLASSES["BuildConfig"]()
            self._workspace = tempfile.TemporaryDirectory(suffix="-llm-workspace", dir=self.args.workspace)
            self._engine_dir = pathlib.Path(self._workspace.name)
            _plan.build(self.args, self._engine_dir)
            self.args.model = str(self._engine_dir)
        config = _plan.load(self._engine_dir, self._world)
        self.args.max_batch_size = min(self.args.max_batch_size, config["build_config"]["max_batch_size"])
        return config["pretrained_config"]["vocab_size"]

    def save(self, engine_dir):
        """Copies the engine, as the real one does."""
        tell("save", directory=str(engine_dir))
        if self._engine_dir.absolute() != pathlib.Path(engine_dir).absolute():
            shutil.copytree(self._engine_dir, engine_dir, dirs_exist_ok=True)

    def _check_lengths(self, prompt, parameters):
        built = json.loads((pathlib.Path(self.args.model) / "config.json").read_text())
        limit = built["build_config"]["max_seq_len"]
        if prompt + parameters.max_tokens > limit:
            raise ValueError(f"The sum of prompt length ({prompt}) and max_tokens ({parameters.max_tokens}) should not exceed max_seq_len ({limit})")

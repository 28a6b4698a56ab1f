"""What a model's directory says of itself. Standard library only."""

import json
import os

from llem_channel import DriverError

# Quantised by other tools: neither path of TensorRT-LLM 1.2 reads them.
FOREIGN_QUANTISATION = ("bitsandbytes", "awq", "gptq", "hqq", "quanto", "aqlm", "gguf")


class Checkpoint:
    """The description of a Hugging Face model on this machine."""

    def __init__(self, directory):
        self._directory = directory
        self._config = _read(directory, "config.json")
        if self._config is None:
            raise DriverError("model_missing", f"{directory} has no config.json that can be read")
        # Models of several parts describe the one for text within.
        self._text = self._config.get("text_config") or self._config

    def refuse_what_no_path_reads(self):
        """Quantisations that would be an error without a name, or other numbers, deep in the engine."""
        method = (self._config.get("quantization_config") or {}).get("quant_method")
        if method in FOREIGN_QUANTISATION:
            text = f"the model is quantised by `{method}`, which TensorRT-LLM does not read; quantise it with NVIDIA ModelOpt"
            raise DriverError("unsupported", f"{text} and point `model:` to the result")

    def dtype_of_pytorch_path(self, asked):
        """The PyTorch path computes in the type that the checkpoint declares."""
        declared = self._text.get("dtype") or self._text.get("torch_dtype") or self._config.get("torch_dtype")
        if declared is None:
            return asked
        if asked not in ("auto", declared):
            text = f"the PyTorch path computes in the checkpoint's type, {declared}, not {asked}; save the checkpoint in {asked}"
            raise DriverError("unsupported", f"{text}, set `dtype: auto`, or use `tensorrt.engine: tensorrt`")
        return declared

    def eos_ids(self):
        """Tokens that end a request."""
        own = (_read(self._directory, "generation_config.json") or {}).get("eos_token_id")
        eos = own if own is not None else self._text.get("eos_token_id", self._config.get("eos_token_id"))
        return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)

    def check_requests(self, requests, limits):
        """A token or position outside of the model would be an error without a name. `limits` are the engine's."""
        vocabulary = self._text.get("vocab_size")
        # Scaled positions are more than the number says.
        positions = None if self._text.get("rope_scaling") else self._text.get("max_position_embeddings")
        seq_limits = {"positions": positions, "`max_seq_len`": limits.get("max_seq_len")}
        prompt_limits = {f"`{name}`": limits.get(name) for name in ("max_input_len", "max_num_tokens")}
        for request in requests:
            index, prompt, outputs = request["index"], request["prompt_ids"], request["output_tokens"]
            if vocabulary is not None and max(prompt) >= vocabulary:
                text = f"has token {max(prompt)} in its prompt, the model's vocabulary ends below {vocabulary}"
                raise DriverError("invalid_config", f"request {index} {text}")
            _check(index, len(prompt) + outputs, "prompt and output", seq_limits)
            _check(index, len(prompt), "prompt", prompt_limits)


def _check(index, tokens, of, limits):
    for name, limit in limits.items():
        if limit is not None and tokens > limit:
            raise DriverError("invalid_config", f"request {index} has {tokens} tokens of {of}, and the limit of {name} is {limit}")


def _read(directory, name):
    try:
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None

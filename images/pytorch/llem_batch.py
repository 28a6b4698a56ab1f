"""A static batch of requests, and when its tokens came."""

import dataclasses
import time

import torch
from transformers.generation.streamers import BaseStreamer


@dataclasses.dataclass
class Batch:
    """Requests that are generated together, padded on the left to the longest prompt, in main memory."""

    requests: list
    ids: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, requests, pad_id):
        """The batch of these requests."""
        width = max(len(request["prompt_ids"]) for request in requests)
        padding = [width - len(request["prompt_ids"]) for request in requests]
        ids = [[pad_id] * pads + request["prompt_ids"] for pads, request in zip(padding, requests)]
        mask = [[0] * pads + [1] * (width - pads) for pads in padding]
        return cls(requests, torch.tensor(ids), torch.tensor(mask))

    def output_tokens(self, index, prefill_only):
        """The most tokens that request `index` of the batch generates."""
        return 1 if prefill_only else self.requests[index]["output_tokens"]

    def longest_output(self, prefill_only):
        """Tokens that are generated for the batch."""
        return max(self.output_tokens(index, prefill_only) for index in range(len(self.requests)))

    def positions(self):
        """Tokens, padding included, that the batch's key-value cache holds for each request at its end."""
        return self.ids.shape[1] + self.longest_output(prefill_only=False)

    def shape(self):
        """What a compiler sees: requests, prompt and output."""
        return (*self.ids.shape, self.longest_output(prefill_only=False))


class Stamps(BaseStreamer):
    """When each token had come to main memory, which is after the device had made it."""

    def __init__(self):
        self.token_ns = []
        self._has_prompt = False

    def put(self, value):
        """Called with the prompt first, then with each step's tokens: one for each request, or, where the engine speculates, one or more
        for the only request. Tokens that come together have one stamp."""
        if self._has_prompt:
            count = value.shape[1] if value.dim() == 2 else 1
            self.token_ns += [time.monotonic_ns()] * count
        self._has_prompt = True

    def end(self):
        """Called after the last step."""


def until_end(row, eos_ids):
    """A request's tokens up to its own end-of-sequence token, which counts."""
    ends = [place for place, token in enumerate(row) if token in eos_ids]
    return row[: ends[0] + 1] if ends else row

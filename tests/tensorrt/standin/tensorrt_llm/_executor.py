"""Requests in steps: a thread in the place of the real one's worker, which gives every request of the batch a token per step."""

import asyncio
import datetime
import queue
import threading
import time
import types

from standin import SCRIPT, fail


class RequestError(RuntimeError):
    """A request that failed."""


RequestError.__module__ = "tensorrt_llm.executor.utils"


class CompletionOutput:
    """The output of a request so far."""

    def __init__(self):
        self.token_ids, self.finish_reason, self.request_perf_metrics = [], None, None
        self._told = 0

    @property
    def length(self):
        """How many tokens there are."""
        return len(self.token_ids)

    @property
    def token_ids_diff(self):
        """What the last step added."""
        return self.token_ids[self._told :]


class RequestOutput:
    """A request and its answer, step by step."""

    def __init__(self, prompt_ids, parameters, streaming):
        self.prompt_token_ids, self.sampling_params, self._streaming = list(prompt_ids), parameters, streaming
        self.outputs, self.cached_tokens, self.finished = [CompletionOutput()], 0, False
        try:
            self._loop = asyncio.get_running_loop()
            self.aqueue = asyncio.Queue()
        except RuntimeError:
            self._loop = self.aqueue = None
        self.arrival_ns = time.monotonic_ns()

    def post(self, answer):
        """Called by the worker."""
        self._loop.call_soon_threadsafe(self.aqueue.put_nowait, answer)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.finished:
            raise StopAsyncIteration
        assert self.aqueue is not None, "The asyncio event loop was not present during initialization"
        answer = await self.aqueue.get()
        if isinstance(answer, Exception):
            raise answer
        output = self.outputs[0]
        output._told = len(output.token_ids)
        output.token_ids.extend(answer["tokens"])
        if answer["reason"]:
            self.finished, output.finish_reason = True, answer["reason"]
            output.request_perf_metrics = answer["metrics"]
            self.cached_tokens = answer["cached"]
        return self


class Executor:
    """The worker's thread."""

    def __init__(self, vocabulary, max_batch_size, kv_cache):
        self._vocabulary, self._max_batch_size = vocabulary, max_batch_size
        self._keeps = kv_cache.enable_block_reuse or SCRIPT.get("keeps_blocks", False)
        self._block, self._kept = kv_cache.tokens_per_block, set()
        self._waiting = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, request):
        self._waiting.put(request)

    def _work(self):
        batch = []
        while True:
            while len(batch) < self._max_batch_size and (not batch or not self._waiting.empty()):
                batch.append(self._admit(self._waiting.get()))
            time.sleep(SCRIPT["token_seconds"])
            batch = [work for work in batch if self._step(work)]

    def _admit(self, request):
        """Whole blocks of a prompt that was seen before are not computed again; the last token always is."""
        prompt, cached = tuple(request.prompt_token_ids), 0
        if self._keeps:
            for end in range(self._block, len(prompt), self._block):
                if prompt[:end] in self._kept:
                    cached = end
            self._kept.update(prompt[:end] for end in range(self._block, len(prompt) + 1, self._block))
        return {"request": request, "made": 0, "cached": cached, "first_ns": None, "seed": hash(prompt)}

    def _step(self, work):
        request, parameters = work["request"], work["request"].sampling_params
        try:
            fail("generate")
        except RuntimeError as error:
            request.post(RequestError(str(error)))
            return False
        limit = parameters.max_tokens - (SCRIPT["fail"].get("generate") == "short")
        token = self._token(work, parameters)
        work["made"] += 1
        now = time.monotonic_ns()
        work["first_ns"] = work["first_ns"] or now
        ends = token == parameters.end_id and not parameters.ignore_eos and work["made"] > (parameters.min_tokens or 0)
        reason = "stop" if ends else "length" if work["made"] >= limit else None
        metrics = _metrics(request, work, now) if reason and parameters.return_perf_metrics else None
        request.post({"tokens": [token] if limit else [], "reason": reason, "metrics": metrics, "cached": work["cached"]})
        return reason is None

    def _token(self, work, parameters):
        if work["made"] == SCRIPT.get("eos_at"):
            return parameters.end_id
        chance = 0 if parameters.is_greedy() else 1 + (parameters.seed or 0)
        token = (work["seed"] + 7919 * work["made"] + 104729 * chance) % self._vocabulary
        return token if token != parameters.end_id else (token + 1) % self._vocabulary


def _metrics(request, work, last_ns):
    stamp = lambda ns: datetime.timedelta(microseconds=ns // 1000)
    timing = types.SimpleNamespace(
        arrival_time=stamp(request.arrival_ns),
        first_scheduled_time=stamp(request.arrival_ns),
        first_token_time=stamp(work["first_ns"]),
        last_token_time=stamp(last_ns),
    )
    return types.SimpleNamespace(timing_metrics=timing)

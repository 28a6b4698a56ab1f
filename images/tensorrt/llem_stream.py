"""A request on its way through the engine. Standard library only."""

import time

from llem_channel import DriverError


class Stream:
    """One request on its way, and when its tokens came."""

    def __init__(self, llm, prompt_ids, parameters):
        self.token_ns, self._ids = [], []
        self.submit_ns = time.monotonic_ns()
        self._result = llm.generate_async(prompt_ids, parameters, streaming=True)

    async def receive(self):
        """Stamps tokens until the last. Steps that make several tokens give them one stamp."""
        async for step in self._result:
            now = time.monotonic_ns()
            new = step.outputs[0].token_ids_diff
            self._ids += new
            self.token_ns += [now] * len(new)

    def prompt_tokens(self):
        """By the engine's own account."""
        return len(self._result.prompt_token_ids)

    def cached_tokens(self):
        """Prompt tokens that were not computed; a version that does not say has none."""
        return getattr(self._result, "cached_tokens", 0) or 0

    def whole_output(self):
        """The tokens, which must be those that the engine has at the end."""
        whole = list(self._result.outputs[0].token_ids)
        if whole != self._ids:
            raise DriverError("wrong_work", f"{len(self._ids)} tokens were received of an output of {len(whole)}, or others")
        return whole

    def lag_ns(self):
        """How long the first and last token took to this process; `None` where the engine does not stamp by the same clock."""
        metrics = getattr(self._result.outputs[0], "request_perf_metrics", None)
        timing = getattr(metrics, "timing_metrics", None)
        if timing is None or not self.token_ns:
            return None
        engine_ns = [round(stamp.total_seconds() * 1e9) for stamp in (timing.first_token_time, timing.last_token_time)]
        lags = self.token_ns[0] - engine_ns[0], self.token_ns[-1] - engine_ns[1]
        in_order = self.submit_ns <= engine_ns[0] <= engine_ns[1] and min(lags) >= 0
        return lags if in_order else None

"""Unit tests of the driver's parts that need no engine."""

import asyncio
import datetime
import types
import unittest

import llem_checkpoint
import llem_options
from llem_channel import DriverError
from llem_stream import Stream


def spec(options=None, **changes):
    engine = {"backend": "tensorrt", "model": {"directory": "/tmp"}, "dtype": "auto", "options": options or {}}
    return {**engine, "extra": {}, "sampling": {}, "random_seed": "42", **changes}


class Options(unittest.TestCase):
    def refused(self, failure_class, text, options=None, **changes):
        with self.assertRaises(DriverError) as raised:
            llem_options.read(spec(options, **changes))
        self.assertEqual(raised.exception.failure_class, failure_class)
        self.assertIn(text, str(raised.exception))

    def test_absent_options_are_the_engines_but_for_kept_blocks(self):
        settings = llem_options.read(spec())
        self.assertEqual(settings.arguments, {"kv_cache_config": {"enable_block_reuse": False}})
        self.assertEqual((settings.engine, settings.gpus(), settings.keeps_blocks(), settings.sampling), ("pytorch", 1, False, {}))

    def test_gpus_are_the_product_of_the_sizes(self):
        sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 3, "context_parallel_size": 2}
        self.assertEqual(llem_options.read(spec(sizes)).gpus(), 12)

    def test_wrong_values_are_named(self):
        self.refused("invalid_config", "`random_seed`", random_seed="-1")
        self.refused("invalid_config", "`tensorrt.kv_cache` is 'big'", {"kv_cache": "big"})
        self.refused("invalid_config", "`tensorrt.speculative.decoding_type` is missing", {"speculative": {"max_draft_len": 3}})
        self.refused("invalid_config", "of backend `tensorrt`, not `vllm`", backend="vllm")
        self.refused("unsupported", "`dtype: int8`", dtype="int8")
        self.refused("unsupported", "`sampling.min_p`", sampling={"min_p": 0.1})
        self.refused("invalid_config", "`tensorrt.engine`", extra={"backend": "pytorch"})
        self.refused("invalid_config", "has a field of its own: `dtype`", extra={"dtype": "float16"})

    def test_sampling_is_all_or_nothing(self):
        self.assertEqual(llem_options.read(spec(sampling={"temperature": 0, "top_k": 3})).sampling, {})
        sampling = llem_options.read(spec(sampling={"top_k": 3})).sampling
        self.assertEqual(sampling, {"temperature": 1.0, "top_k": 3, "top_p": 1.0})


class Limits(unittest.TestCase):
    def test_requests_outside_of_the_model_are_named(self):
        checkpoint = llem_checkpoint.Checkpoint.__new__(llem_checkpoint.Checkpoint)
        checkpoint._text = {"vocab_size": 10, "max_position_embeddings": 6}
        request = {"index": 3, "prompt_ids": [1, 2, 3], "output_tokens": 3}
        checkpoint.check_requests([request], {})
        for changes, limits, text in (
            ({"prompt_ids": [10]}, {}, "token 10"),
            ({"output_tokens": 4}, {}, "positions is 6"),
            ({}, {"max_input_len": 2}, "`max_input_len` is 2"),
            ({}, {"max_seq_len": 5}, "`max_seq_len` is 5"),
        ):
            with self.assertRaisesRegex(DriverError, text):
                checkpoint.check_requests([{**request, **changes}], limits)


class Answer:
    """Steps of one and two tokens, and an engine's stamps at a distance of the clock."""

    def __init__(self, steps, first_s, last_s):
        stamp = lambda seconds: datetime.timedelta(seconds=seconds)
        timing = types.SimpleNamespace(first_token_time=stamp(first_s), last_token_time=stamp(last_s))
        metrics = types.SimpleNamespace(timing_metrics=timing)
        self.outputs = [types.SimpleNamespace(token_ids=[], token_ids_diff=[], request_perf_metrics=metrics)]
        self.prompt_token_ids, self._steps = [1], list(steps)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._steps:
            raise StopAsyncIteration
        self.outputs[0].token_ids_diff = self._steps.pop(0)
        self.outputs[0].token_ids = self.outputs[0].token_ids + self.outputs[0].token_ids_diff
        return self


class Streams(unittest.TestCase):
    def stream(self, steps, first_s, last_s):
        answer = Answer(steps, first_s, last_s)
        llm = types.SimpleNamespace(generate_async=lambda *_, **__: answer)
        stream = Stream(llm, [1], None)
        asyncio.run(stream.receive())
        return stream, answer

    def test_every_token_has_a_stamp(self):
        stream, _ = self.stream([[5], [6, 7], []], 0, 0)
        self.assertEqual((stream.whole_output(), len(stream.token_ns)), ([5, 6, 7], 3))
        self.assertEqual(stream.token_ns[1], stream.token_ns[2])

    def test_tokens_that_were_not_received_are_noticed(self):
        stream, answer = self.stream([[5], [6]], 0, 0)
        answer.outputs[0].token_ids = [5, 6, 7]
        with self.assertRaises(DriverError) as raised:
            stream.whole_output()
        self.assertEqual(raised.exception.failure_class, "wrong_work")

    def test_stamps_of_another_clock_are_not_compared(self):
        stream, answer = self.stream([[5]], 0, 0)
        self.assertIsNone(stream.lag_ns())
        timing = answer.outputs[0].request_perf_metrics.timing_metrics
        made_ns = stream.submit_ns
        timing.first_token_time = timing.last_token_time = types.SimpleNamespace(total_seconds=lambda: made_ns / 1e9)
        answer.outputs[0].request_perf_metrics.timing_metrics = timing
        stream.submit_ns -= 10_000
        stream.token_ns = [made_ns + 5_000]
        first, last = stream.lag_ns()
        self.assertTrue(first == last and abs(first - 5_000) < 1_000, first)
        answer.outputs[0].request_perf_metrics = None
        self.assertIsNone(stream.lag_ns())


if __name__ == "__main__":
    unittest.main()

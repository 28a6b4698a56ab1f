"""Unit tests of the driver's parts that need no engine."""

import json
import os
import pathlib
import tempfile
import unittest
from unittest import mock

import llem_environment
import llem_settings
from llem_channel import DriverError


def spec(options=None, **changes):
    engine = {"backend": "vllm", "model": {"directory": "/tmp"}, "dtype": "auto", "options": options or {}}
    return {**engine, "extra": {}, "sampling": {}, "random_seed": "42", **changes}


class Settings(unittest.TestCase):
    def refused(self, failure_class, text, options=None, **changes):
        with self.assertRaises(DriverError) as raised:
            llem_settings.read(spec(options, **changes))
        self.assertEqual(raised.exception.failure_class, failure_class)
        self.assertIn(text, str(raised.exception))

    def test_absent_options_are_the_engines_but_for_the_work(self):
        settings = llem_settings.read(spec())
        own = {"skip_tokenizer_init": True, "disable_log_stats": True, "generation_config": "vllm", "enable_prefix_caching": False}
        self.assertEqual(settings.arguments, {"model": "/tmp", "dtype": "auto", "seed": 42, **own})
        self.assertEqual((settings.device, settings.world_size, settings.sampling), ("cuda", 1, {"temperature": 0.0}))

    def test_options_are_arguments_with_the_key_that_they_came_from(self):
        options = {
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 3,
            "max_num_seqs": 8,
            "enable_prefix_caching": True,
            "compilation": {"mode": 3},
            "speculative": {"method": "ngram"},
            "lora": {"max_lora_rank": 32},
        }
        settings = llem_settings.read(spec(options, extra={"max_logprobs": 5}, lora={"adapter": "/a", "merge_weights": False}))
        expected = {"max_num_seqs": 8, "enable_prefix_caching": True, "max_lora_rank": 32, "enable_lora": True, "max_logprobs": 5}
        self.assertLessEqual(expected.items(), settings.arguments.items())
        self.assertEqual(settings.arguments["compilation_config"], {"mode": 3})
        self.assertEqual(settings.arguments["speculative_config"], {"method": "ngram"})
        keys = {"max_lora_rank": "vllm.lora.max_lora_rank", "max_logprobs": "vllm.extra.max_logprobs", "enable_lora": "lora"}
        self.assertLessEqual({**keys, "compilation_config": "vllm.compilation"}.items(), settings.keys.items())
        self.assertEqual((settings.world_size, settings.adapter), (6, "/a"))

    def test_what_is_not_done_is_named(self):
        self.refused("unsupported", "`vllm.swap_space`", {"swap_space": 4})
        self.refused("unsupported", "`vllm.lora.rank`", {"lora": {"rank": 4}})
        self.refused("unsupported", "`vllm.device: tpu`", {"device": "tpu"})
        self.refused("unsupported", "merge it beforehand with PEFT", lora={"adapter": "/a", "merge_weights": True})
        self.refused("unsupported", "`sampling.min_p`", sampling={"min_p": 0.1})
        self.refused("unsupported", "`dtype: int8`", dtype="int8")

    def test_wrong_values_are_named(self):
        self.refused("invalid_config", "`random_seed`", random_seed="18446744073709551616")
        self.refused("invalid_config", "has a field of its own: `vllm.compilation`", extra={"compilation_config": {}})
        self.refused("invalid_config", "has a field of its own: `random_seed`", extra={"seed": 1})
        self.refused("invalid_config", "set by the driver itself", extra={"disable_log_stats": False})
        self.refused("invalid_config", "changes the model's description", extra={"hf_overrides": {"num_hidden_layers": 1}})
        self.refused("model_missing", "/nowhere does not exist", model={"directory": "/nowhere"})

    def test_sampling_has_none_of_the_engines_defaults(self):
        sampling = {"temperature": 0.5}
        self.assertEqual(llem_settings.read(spec(sampling=sampling)).sampling, {"temperature": 0.5, "top_k": 0, "top_p": 1.0})
        self.assertEqual(llem_settings.read(spec(sampling={"temperature": 0, "top_k": 3})).sampling, {"temperature": 0.0})

    def test_seeds_beyond_32_bits_are_cut_for_the_engine(self):
        self.assertEqual(llem_settings.read(spec(random_seed=str((1 << 40) + 7))).arguments["seed"], 7)

    def test_adapters_are_looked_at_before_the_model_is_loaded(self):
        with tempfile.TemporaryDirectory() as directory:
            with self.assertRaises(DriverError) as raised:
                llem_settings.check_adapter(directory, 16)
            self.assertEqual(raised.exception.failure_class, "model_missing")
            pathlib.Path(directory, "adapter_config.json").write_text(json.dumps({"r": 64}))
            llem_settings.check_adapter(directory, 64)
            with self.assertRaisesRegex(DriverError, "rank 64, and vLLM prepares for 16"):
                llem_settings.check_adapter(directory, 16)
            pathlib.Path(directory, "adapter_config.json").write_text(json.dumps({"r": "8"}))
            with self.assertRaisesRegex(DriverError, "`r` is '8'"):
                llem_settings.check_adapter(directory, 16)


class Environment(unittest.TestCase):
    def test_who_starts_the_driver_has_the_last_word(self):
        with mock.patch.dict(os.environ, {"HOME": "/nowhere", "VLLM_LOGGING_STREAM": "x"}, clear=True):
            llem_environment.prepare()
            self.assertEqual((os.environ["VLLM_LOGGING_STREAM"], os.environ["VLLM_NO_USAGE_STATS"]), ("x", "1"))
            self.assertEqual(os.environ["HOME"], tempfile.gettempdir())

    def test_one_device_is_served_from_this_process(self):
        for given, world_size, alone in (({}, 1, True), ({}, 2, False), ({"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}, 1, False)):
            with mock.patch.dict(os.environ, given, clear=True):
                self.assertEqual(llem_environment.choose_processes(world_size), alone)
                self.assertEqual(os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"], "0" if alone else "1")


if __name__ == "__main__":
    unittest.main()

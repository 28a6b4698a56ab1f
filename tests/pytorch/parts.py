"""Unit tests of the driver's parts that need no engine."""

import io
import json
import os
import tempfile
import unittest
import unittest.mock

import llem_caches
import llem_channel
import llem_settings
from llem_channel import Channel, DriverError


def spec(options=None, **changes):
    engine = {"backend": "pytorch", "model": {"directory": "/tmp"}, "dtype": "auto", "options": options or {}}
    return {**engine, "extra": {}, "sampling": {}, "random_seed": "42", **changes}


class Settings(unittest.TestCase):
    def refused(self, failure_class, text, options=None, **changes):
        with self.assertRaises(DriverError) as raised:
            llem_settings.read(spec(options, **changes))
        self.assertEqual(raised.exception.failure_class, failure_class)
        self.assertIn(text, str(raised.exception))

    def test_absent_options_are_the_engines(self):
        settings = llem_settings.read(spec())
        self.assertEqual((settings.batch_size, settings.seed, settings.sampling), (1, 42, {}))
        absent = (settings.device_map, settings.attention, settings.cache, settings.allow_tf32, settings.num_threads)
        self.assertEqual(absent, (None,) * 5)

    def test_what_is_not_done_is_named(self):
        self.refused("unsupported", "`pytorch.compile.speed`", {"compile": {"speed": 9}})
        self.refused("unsupported", "`pytorch.quantization.method: gguf`", {"quantization": {"method": "gguf"}})
        self.refused("unsupported", "`pytorch.low_cpu_mem_usage`", {"low_cpu_mem_usage": True})
        self.refused("unsupported", "`lora.rank`", lora={"adapter": "/tmp", "rank": 4})
        self.refused("unsupported", "`pytorch.cache.implementation: paged`", {"cache": {"implementation": "paged"}})
        self.refused("unsupported", "`pytorch.device_map: mps`", {"device_map": "mps"})
        self.refused("unsupported", "`sampling.min_p`", sampling={"min_p": 0.1})
        self.refused("unsupported", "`dtype: int8`", dtype="int8")

    def test_wrong_values_are_named(self):
        self.refused("invalid_config", "`pytorch.batch_size` is 0", {"batch_size": 0})
        self.refused("invalid_config", "`pytorch.batch_size` is True", {"batch_size": True})
        self.refused("invalid_config", "`pytorch.allow_tf32` is 1", {"allow_tf32": 1})
        self.refused("invalid_config", "`pytorch.tensor_parallel_size` is 2", {"tensor_parallel_size": 2})
        self.refused("invalid_config", "needs either", {"speculative": {}})
        both = {"prompt_lookup_num_tokens": 3, "assistant_model": "/tmp"}
        self.refused("invalid_config", "needs either", {"speculative": both})
        self.refused("invalid_config", "`pytorch.quantization.group_size` is -2", {"quantization": {"group_size": -2}})
        self.refused("model_missing", "the LoRA adapter directory /a", lora={"adapter": "/a"})
        self.refused("model_missing", "the assistant model directory o/n", {"speculative": {"assistant_model": "o/n"}})
        self.refused("invalid_config", "`pytorch.attn` is 'sdpa'", {"attn": "sdpa"})
        self.refused("invalid_config", "`random_seed`", random_seed="18446744073709551616")
        self.refused("invalid_config", "has a field of its own: `dtype`", extra={"torch_dtype": "float32"})
        self.refused("invalid_config", "set by the driver itself", extra={"local_files_only": False})
        self.refused("invalid_config", "set by the driver itself", extra={"subfolder": "other"})

    def test_a_section_that_is_there_counts_even_when_it_is_empty(self):
        self.assertIsNone(llem_settings.read(spec()).compile)
        self.assertIsNone(llem_settings.read(spec({"compile": {}})).compile.enabled)
        asked = llem_settings.read(spec({"quantization": {"load_in_4bit": True, "llm_int8_threshold": None}})).quantization
        self.assertEqual(asked, {"method": "bitsandbytes", "load_in_4bit": True})

    def test_sampling_has_none_of_the_engines_defaults(self):
        sampling = {"temperature": 0.5}
        self.assertEqual(llem_settings.read(spec(sampling=sampling)).sampling, {"temperature": 0.5, "top_k": 0, "top_p": 1.0})
        self.assertEqual(llem_settings.read(spec(sampling={"temperature": 0, "top_k": 3})).sampling, {})


class Caches(unittest.TestCase):
    """Compiled code is kept where nobody else can put some."""

    def test_a_directory_of_somebody_else_is_not_used(self):
        with tempfile.TemporaryDirectory() as place, unittest.mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": "/mine"}):
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
            root = os.path.join(place, f"llem-{os.getuid()}")
            with unittest.mock.patch.object(tempfile, "tempdir", place):
                llem_caches.set_caches()
                self.assertEqual(os.environ.pop("TORCHINDUCTOR_CACHE_DIR"), os.path.join(root, "torchinductor"))
                self.assertEqual((os.environ["TRITON_CACHE_DIR"], os.stat(root).st_mode & 0o777), ("/mine", 0o700))
                os.rmdir(root)
                os.symlink("/tmp", root)
                llem_caches.set_caches()
                self.assertFalse(os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(root))


class Line(unittest.TestCase):
    def test_errors_can_always_be_sent(self):
        sent = io.BytesIO()
        try:
            try:
                raise ValueError("outer \udcff")
            except ValueError as error:
                raise DriverError("unsupported", "é") from error
        except DriverError as error:
            Channel(None, sent).send_error(error)
        message = json.loads(sent.getvalue())
        self.assertEqual((message["class"], message["text"], message["causes"]), ("unsupported", "é", ["outer ?"]))
        self.assertEqual(message["kind"], "llem_channel.DriverError")

    def test_requests_are_bounded_objects(self):
        for line in (b"[]\n", b"{\n", b"x" * (llem_channel.MAX_LINE_BYTES + 1)):
            with self.assertRaises(DriverError) as raised:
                Channel(io.BytesIO(line), None).receive()
            self.assertEqual(raised.exception.failure_class, "protocol")
        self.assertIsNone(Channel(io.BytesIO(b""), None).receive())


class Conversation(unittest.TestCase):
    """The engine is reached by the protocol alone."""

    def talk(self, *requests):
        sent = io.BytesIO()
        lines = b"".join(json.dumps(request).encode() + b"\n" for request in requests)
        llem_channel._answer_requests(Channel(io.BytesIO(lines), sent), None)
        return sent.getvalue()

    def test_the_order_is_held(self):
        for request, text in (({"request": "pass", "pass": 0, "record": True}, "before a model"), ({"request": "dance"}, "`dance`")):
            with self.assertRaisesRegex(DriverError, text) as raised:
                self.talk(request)
            self.assertEqual(raised.exception.failure_class, "protocol")

    def test_both_ends_are_orderly(self):
        self.assertEqual(self.talk(), b"")
        self.assertEqual(self.talk({"request": "shutdown"}, {"request": "dance"}), b"")


class Workload(unittest.TestCase):
    def read(self, *lines):
        with tempfile.NamedTemporaryFile("w") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            return llem_channel.read_workload(file.name)

    def test_lines_are_checked(self):
        good = '{"index": 0, "prompt_ids": [3, 4], "output_tokens": 5}'
        self.assertEqual(self.read(good)[0]["prompt_ids"], [3, 4])
        second, half = good.replace("0,", "1,", 1), good[:20]
        for lines in ((), (good, good), (good, half), (good, second.replace("3", "-3")), (good.replace("5}", "0}"),)):
            with self.assertRaises(DriverError) as raised:
                self.read(*lines)
            self.assertEqual(raised.exception.failure_class, "workload_corrupt")
        self.assertEqual(len(self.read(good, second)), 2)


if __name__ == "__main__":
    unittest.main()

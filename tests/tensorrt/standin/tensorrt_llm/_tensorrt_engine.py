"""The path of compiled engines; versions after 1.2 do not have it."""

from standin import SCRIPT

if not SCRIPT["version"].startswith(("1.0", "1.1", "1.2")):
    raise ImportError("cannot import name '_TrtLLM' from 'tensorrt_llm.llmapi.llm'")

from ._llm import TrtLLM as LLM  # noqa: E402, F401

LLM.__name__ = "LLM"

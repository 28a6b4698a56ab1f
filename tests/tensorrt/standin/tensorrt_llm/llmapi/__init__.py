"""Configs of the LLM API. What the real one keeps elsewhere is elsewhere here, too."""

from .._classes import CLASSES, ENUMERATIONS

_ELSEWHERE = ("PluginConfig", "KVCacheType", "SpeculativeDecodingMode")
globals().update({name: made for name, made in {**CLASSES, **ENUMERATIONS}.items() if name not in _ELSEWHERE})

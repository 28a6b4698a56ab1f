"""`torch.compile`: what is compiled, and proof that it was, before anything is measured."""

import os
import sys
import time

import torch
import transformers
from llem_channel import DriverError

# Rounds through all shapes until nothing new is compiled: the second sees how shapes change, the third that they do so no more.
MOST_ROUNDS = 5
NO_COMPILER = ("Failed to find C compiler", "No working C++ compiler", "InvalidCxxCompiler", "Python.h: No such file")
WAY_OUT = "or do without: `pytorch.compile: {enabled: false}`"


class Compilation:
    """What of a model is compiled by whom: decoding by `generate`, where the key-value cache keeps its size, else the forward pass."""

    def __init__(self, settings, model):
        self._asked = settings.compile is not None and settings.compile.enabled is not False
        self._model = model
        self.is_static = settings.cache == "static" and settings.use_cache is not False
        is_off = settings.compile is not None and settings.compile.enabled is False
        # Flex attention is made by the compiler whatever else is.
        self._has_flex = settings.attention == "flex_attention"
        by_itself = settings.cache == "static" and model.device.type == "cuda" and not is_off
        self.is_on = self._asked or by_itself or self._has_flex
        self.generation = {"disable_compile": True} if is_off else {}
        self._arguments = _arguments(settings.compile, self.is_static) if self._asked else {}
        if self.is_on:
            _fail_at_limits()
        if self._asked and self.is_static:
            config = transformers.CompileConfig(**self._arguments)
            # `generate` would leave it out on the processor.
            config._compile_all_devices = True
            self.generation["compile_config"] = config
        elif self._asked:
            model.forward = torch.compile(model.forward, **self._arguments)

    def compile(self, batches, run):
        """Runs a batch of every shape until nothing new is compiled. Returns the stretches of time in which something was."""
        shapes = list({batch.shape(): batch for batch in batches}.values())
        stretches = []
        for _ in range(MOST_ROUNDS):
            before = len(stretches)
            stretches += [stretch for batch in shapes if (stretch := self._run(batch, run))]
            if len(stretches) == before:
                break
        else:
            text = f"torch.compile is not done after {MOST_ROUNDS} rounds of the workload"
            raise DriverError("unsupported", f"{text}; {_advice(self.is_static)}")
        if not stretches and self._asked:
            text = "transformers does not compile this model with these settings (its log says why); remove `pytorch.compile`"
            raise DriverError("unsupported", text)
        return stretches

    def _run(self, batch, run):
        before, start_ns = graphs(), time.monotonic_ns()
        try:
            run(batch)
        except Exception as error:
            raise (_explained(error, self.is_static) or error)
        return {"start_ns": start_ns, "end_ns": time.monotonic_ns()} if graphs() > before else None

    def in_effect(self):
        """For the result; `None` when nothing is compiled."""
        if not graphs():
            return None
        if self._has_flex and not self._asked and not self.is_static:
            return {"what": "attention", "graphs": graphs()}
        arguments = self._arguments or transformers.CompileConfig().to_dict()
        arguments = {key: value for key, value in arguments.items() if key != "options"}
        what = "decoding" if self.is_static else "forward"
        caches = {name: os.environ.get(name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
        return {"what": what, **arguments, "graphs": graphs(), "caches": caches}


def graphs():
    """Graphs that this process has compiled so far."""
    # Importing it takes seconds; what is not imported has compiled nothing.
    utils = sys.modules.get("torch._dynamo.utils")
    return utils.counters["stats"]["unique_graphs"] if utils else 0


def _arguments(section, is_static):
    """Arguments of `torch.compile`. Only inductor has modes; the default is that of whoever compiles."""
    backend = section.backend or "inductor"
    mode = section.mode or ("reduce-overhead" if is_static else "default")
    given = {"backend": backend, "mode": mode if backend == "inductor" else None}
    return {**given, "fullgraph": section.fullgraph or False, "dynamic": section.dynamic}


def _fail_at_limits():
    """Beyond its limit of variants the compiler would go on uncompiled and say so in the log only."""
    config = torch._dynamo.config
    for name in ("fail_on_recompile_limit_hit", "fail_on_cache_limit_hit"):
        if hasattr(config, name):
            setattr(config, name, True)


def _explained(error, is_static):
    """The failure with its class, where PyTorch does not say what to do."""
    texts = []
    link = error
    while link is not None and len(texts) < 16:
        texts.append(f"{type(link).__name__}: {link}")
        link = link.__cause__ or link.__context__
    text = "\n".join(texts)
    failure = None
    if any(fragment in text for fragment in NO_COMPILER):
        sentence = "torch.compile needs a C compiler with Python's headers, which the image has not; use an image with gcc and g++"
        failure = DriverError("engine_missing", f"{sentence}, {WAY_OUT}")
    elif "RecompileLimitHit" in text or "recompile_limit" in text:
        failure = DriverError("unsupported", f"the workload has more shapes than torch.compile compiles; {_advice(is_static)}")
    if failure is not None:
        failure.__cause__ = error
    return failure


def _advice(is_static):
    other = "`pytorch.compile.dynamic: true` or `pytorch.cache.implementation: static`"
    return f"set {'`pytorch.cache.max_cache_len`' if is_static else other}, give all requests the same lengths, {WAY_OUT}"

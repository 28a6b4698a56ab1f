"""Lets a bare loop over the same engine follow every recorded pass of llem's driver, and prints how long both took. Python imports this file
by itself when its directory is on PYTHONPATH; `pairs` of gpu-engines mounts it into the containers of its runs."""

import importlib.abc
import importlib.machinery
import sys
import time


def bare_pytorch(engine):
    """What a reader of transformers' documentation would write."""
    import torch

    with torch.inference_mode():
        for batch in engine._batches:
            device = engine._model.device
            ids, mask = batch.ids.to(device), batch.mask.to(device)
            engine._model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=batch.longest_output(False))
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def bare_vllm(engine):
    """What vLLM's own `LLM.generate` does: only the last output of each request."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    core = engine._engine
    for place, (prompt, request) in enumerate(zip(engine._prompts, engine._requests)):
        tokens = request["output_tokens"]
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
        core.add_request(f"bare-{place}", prompt, params)
    while core.has_unfinished_requests():
        core.step()


BARE = {"llem_pytorch": bare_pytorch, "llem_vllm": bare_vllm}


def timed(bare, engine):
    start_ns = time.monotonic_ns()
    bare(engine)
    return time.monotonic_ns() - start_ns


def follow(module, bare):
    run_pass = module.Engine.run_pass

    def paired(engine, number, record, prefill_only):
        # In turn, so that whoever comes second has no advantage in the sum.
        bare_ns = timed(bare, engine) if number % 2 else 0
        done = run_pass(engine, number, record, prefill_only)
        bare_ns = bare_ns or timed(bare, engine)
        if record:
            print("PAIR", done["end_ns"] - done["start_ns"], bare_ns, file=sys.stderr, flush=True)
        return done

    module.Engine.run_pass = paired


class Finder(importlib.abc.MetaPathFinder):
    """Finds the drivers' modules as Python would, and changes them when they have been executed."""

    def find_spec(self, name, path, target=None):
        if name not in BARE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def executed(module):
            execute(module)
            follow(module, BARE[name])

        spec.loader.exec_module = executed
        return spec


sys.meta_path.insert(0, Finder())

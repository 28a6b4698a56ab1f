"""Engine directories: `config.json` and one `rankN.engine` per GPU, as the real ones, but for what a plan holds."""

import json
import pathlib
import sys
import time

from standin import SCRIPT, fail, tell


def is_engine(directory):
    """As the real one tells formats apart."""
    try:
        config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    except (OSError, ValueError):
        raise ValueError(f"Failed to infer model format because no config.json exists in {directory}") from None
    return "pretrained_config" in config and "build_config" in config


def build(arguments, directory):
    """Builds. What the real one computes into the config of the result is done for the sizes only."""
    tell("build", arguments=arguments.dump())
    fail("build")
    time.sleep(SCRIPT["build_seconds"])
    model = json.loads((pathlib.Path(arguments.model) / "config.json").read_text())
    options = arguments.build_config.dump()
    if options["max_seq_len"] is None:
        options["max_seq_len"] = model["max_position_embeddings"]
    sizes = {"tp_size": arguments.tensor_parallel_size, "pp_size": arguments.pipeline_parallel_size}
    world = sizes["tp_size"] * sizes["pp_size"] * arguments.context_parallel_size
    pretrained = {
        "architecture": model["architectures"][0],
        "dtype": "float16" if arguments.dtype == "auto" else arguments.dtype,
        "vocab_size": model["vocab_size"],
        "mapping": {**sizes, "world_size": world},
        "quantization": arguments.quant_config.dump(),
    }
    for unsaved in ("dry_run", "visualize_network"):
        options.pop(unsaved)
    config = {"version": SCRIPT["version"], "pretrained_config": pretrained, "build_config": options}
    (directory / "config.json").write_text(json.dumps(config, indent=4))
    plan = {"stand-in": True, "tensorrt": SCRIPT["tensorrt"], "compute": SCRIPT["compute"], "filler": "x" * 4096}
    for rank in range(world):
        (directory / f"rank{rank}.engine").write_text(json.dumps({**plan, "rank": rank}))


def load(directory, world):
    """The config of an engine that this device and version can run."""
    tell("load", directory=str(directory))
    fail("load")
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    mapping = config["pretrained_config"]["mapping"]
    for rank in range(mapping["world_size"]):
        try:
            plan = json.loads((directory / f"rank{rank}.engine").read_bytes())
        except ValueError:
            _stale("[TRT] [E] 1: [runtime.cpp] Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.")
        if plan["compute"] != SCRIPT["compute"]:
            said, found = plan["compute"], SCRIPT["compute"]
            _stale(
                "[TRT] [E] 6: The engine plan file is generated on an incompatible device, "
                f"expecting compute {found} got compute {said}, please rebuild."
            )
        if plan["tensorrt"] != SCRIPT["tensorrt"]:
            said, found = plan["tensorrt"], SCRIPT["tensorrt"]
            _stale(
                "[TRT] [E] 6: The engine plan file is not compatible with this version of TensorRT, "
                f"expecting library version {found} got {said}, please rebuild."
            )
    if world not in (1, mapping["world_size"]):
        raise ValueError(f"tp_size {world} is not consistent with the engine's tp_size {mapping['tp_size']}")
    return config


def _stale(line):
    print(line, file=sys.stderr, flush=True)
    raise RuntimeError("[TensorRT-LLM][ERROR] Assertion failed: Failed to deserialize cuda engine. (tllmRuntime.cpp:239)")

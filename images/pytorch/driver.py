"""llem's driver of PyTorch with Hugging Face transformers. Started by the agent, which speaks the driver protocol with it."""

import os

import llem_caches
import llem_channel


def start():
    """Imports the engine. A function, because importing prints, and what is printed before the channel is taken breaks it."""
    # Everything is on this machine already; a look at the hub would only cost time.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    llem_caches.set_caches()
    try:
        import llem_pytorch
    except ImportError as error:
        raise llem_channel.DriverError("engine_missing", f"PyTorch or transformers cannot be imported: {error}") from error
    return llem_pytorch.Engine()


if __name__ == "__main__":
    llem_channel.serve(start)

"""llem's driver of vLLM. Started by the agent, which speaks the driver protocol with it."""

import llem_channel
import llem_environment


def start():
    """Imports the engine. A function, because importing prints, and what is printed before the channel is taken breaks it."""
    llem_environment.prepare()
    try:
        import llem_vllm
    except ImportError as error:
        raise llem_channel.DriverError("engine_missing", f"vLLM cannot be imported: {error}") from error
    return llem_vllm.Engine()


# vLLM's workers import this file again.
if __name__ == "__main__":
    llem_channel.serve(start)

"""Builds an engine and leaves: a program of its own, started by the driver with the path of its job."""

import json
import os
import sys
import traceback

import llem_channel


def build(job):
    """Builds and saves."""
    import llem_arguments
    import llem_compiled

    llm = llem_compiled.llm_class()(
        model=job["model"],
        dtype=job["dtype"],
        skip_tokenizer_init=True,
        workspace=job["workspace"],
        **llem_arguments.make(job["arguments"]),
    )
    llm.save(job["directory"])


def main(path):
    """Says in the outcome file how it went, and ends without the engine's own shutdown, which can hang."""
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    outcome, status = {"done": True}, 0
    try:
        build(job)
    except BaseException as error:
        traceback.print_exc()
        outcome, status = llem_channel.error_fields(error), 1
    with open(job["outcome"], "w", encoding="utf-8") as file:
        json.dump(outcome, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# The engine's workers import this file again.
if __name__ == "__main__":
    main(sys.argv[1])

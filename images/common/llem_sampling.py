"""How tokens are chosen, in the words that the engines share."""

from llem_channel import DriverError


def sampling(section, backend):
    """Temperature, top_k and top_p, all three, so that none of the engine's defaults is the experiment's (0 and 1 are all tokens); None for
    greedy, which every engine is asked for in its own way."""
    given = {key: value for key, value in section.items() if value is not None}
    for key in given.keys() - {"temperature", "top_k", "top_p"}:
        raise DriverError("unsupported", f"`sampling.{key}` is not done by the {backend} driver")
    if not given or given.get("temperature") == 0:
        return None
    temperature, top_k, top_p = given.get("temperature", 1.0), given.get("top_k", 0), given.get("top_p", 1.0)
    return {"temperature": float(temperature), "top_k": top_k, "top_p": float(top_p)}

"""A LoRA adapter on a model, by PEFT."""

import torch
from llem_channel import DriverError
from llem_quantization import is_installed


def apply(model, lora):
    """Puts the adapter into the model's own layers. Returns the model to go on with and what is in effect, for the result."""
    if not is_installed("peft"):
        raise DriverError("engine_missing", "`lora` needs the package `peft`, which the engine has not")
    import peft

    config = peft.PeftConfig.from_pretrained(lora.directory)
    if config.peft_type != peft.PeftType.LORA:
        raise DriverError("unsupported", f"the adapter is of type {config.peft_type}, llem does LoRA only")
    try:
        adapted = peft.PeftModel.from_pretrained(model, lora.directory)
        _check_weights(adapted, peft.load_peft_weights(lora.directory, device="cpu"), peft)
    except (ValueError, RuntimeError) as error:
        if "out of memory" in str(error).lower():
            raise
        raise DriverError("invalid_config", f"the LoRA adapter does not fit the model: {error}") from error
    layers = [module for module in adapted.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    if not layers:
        raise DriverError("invalid_config", "the LoRA adapter fits no layer of the model")
    found = {
        "adapter": lora.directory,
        "merge_weights": lora.merge_weights,
        "rank": config.r,
        "alpha": config.lora_alpha,
        "target_modules": sorted(config.target_modules) if not isinstance(config.target_modules, str) else config.target_modules,
        "layers": len(layers),
        "parameters": sum(value.numel() for name, value in adapted.named_parameters() if "lora_" in name),
    }
    # Without merging the layers are changed in place; the wrapper around the model only adds time.
    return (adapted.merge_and_unload() if lora.merge_weights else model).eval(), found


def _check_weights(adapted, given, peft):
    """PEFT warns of weights that it did not find, and goes on with an adapter that does nothing."""
    present = peft.get_peft_model_state_dict(adapted)
    if missing := sorted(present.keys() - given.keys()):
        raise ValueError(f"it has no weights for {', '.join(missing[:4])} ({len(missing)} in all)")
    if strange := sorted(given.keys() - present.keys()):
        raise ValueError(f"the model has no place for {', '.join(strange[:4])} ({len(strange)} in all)")
    for name, value in given.items():
        if not torch.equal(present[name].detach().cpu().to(value.dtype), value):
            raise ValueError(f"its weight {name} did not come into the model")

"""Speculative decoding of `generate`: the model checks several guessed tokens in one step."""

import transformers
from llem_channel import DriverError
import llem_model


class Speculation:
    """Where the guesses come from: earlier tokens of the request, or a smaller model on the same device."""

    def __init__(self, settings, model, device_map):
        self._asked = settings.speculation
        self._assistant = None
        if self._asked is None:
            return
        if settings.batch_size != 1:
            text = f"transformers speculates for one request at a time, and `pytorch.batch_size` is {settings.batch_size}; set it to 1"
            raise DriverError("invalid_config", text)
        if self._asked.assistant_model is None and int(transformers.__version__.split(".")[0]) < 5:
            # 4.57 cannot look up where no token ends a request: a TypeError in the middle of the first batch.
            text = f"`pytorch.speculative.prompt_lookup_num_tokens` needs transformers 5, the engine has {transformers.__version__}"
            raise DriverError("unsupported", text)
        if self._asked.assistant_model is not None:
            self._assistant = _assistant(settings, model, device_map)

    def arguments(self):
        """Further arguments of `generate`. The engine adapts an assistant's own settings as it goes; every batch begins anew, so that
        every pass is the same work."""
        if self._asked is None:
            return {}
        if self._assistant is None:
            return {"prompt_lookup_num_tokens": self._asked.prompt_lookup_num_tokens}
        own = {"num_assistant_tokens": self._asked.num_assistant_tokens}
        config = transformers.GenerationConfig(**{key: value for key, value in own.items() if value is not None})
        config.pad_token_id, config.eos_token_id = self._pad_id, None
        self._assistant.generation_config = config
        return {"assistant_model": self._assistant}

    def models(self):
        """The models that are loaded for it."""
        return [] if self._assistant is None else [self._assistant]

    def prepare(self, pad_id):
        """Takes what is known once the model is looked at."""
        self._pad_id = pad_id

    def in_effect(self):
        """For the result; `None` without it."""
        if self._asked is None:
            return None
        if self._assistant is None:
            return {"prompt_lookup_num_tokens": self._asked.prompt_lookup_num_tokens}
        self.arguments()
        config = self._assistant.generation_config
        return {
            "assistant_model": self._asked.assistant_model,
            "assistant_parameters": sum(parameter.numel() for parameter in self._assistant.parameters()),
            "num_assistant_tokens": config.num_assistant_tokens,
            "num_assistant_tokens_schedule": config.num_assistant_tokens_schedule,
            "assistant_confidence_threshold": config.assistant_confidence_threshold,
        }


def _assistant(settings, model, device_map):
    if device_map == "auto":
        raise DriverError("unsupported", "an assistant model goes to one device; remove `pytorch.device_map: auto`")
    assistant = llem_model.load_plain(settings, settings.speculation.assistant_model, device_map)
    sizes = [found.config.get_text_config().vocab_size for found in (model, assistant)]
    if sizes[0] != sizes[1]:
        text = f"the assistant model has {sizes[1]} tokens in its vocabulary, the model {sizes[0]}; they must be the same"
        raise DriverError("invalid_config", text)
    return assistant

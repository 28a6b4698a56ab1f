"""Classes of the facts. They take the arguments that the facts name, of the kinds that the facts name, and nothing else."""

import enum

from standin import FACTS


class ValidationError(ValueError):
    """As pydantic's, by name and words."""

    def __init__(self, owner, field, text, kind):
        super().__init__(f"1 validation error for {owner}\n{field}\n  {text} [type={kind}]")


ValidationError.__module__ = "pydantic_core._pydantic_core"

ENUMERATIONS = {name: enum.Enum(name, {value: value for value in values}, type=str) for name, values in FACTS["enums"].items()}
CLASSES = {}
PRIMITIVES = {"bool": bool, "int": int, "str": str}


class Facts:
    """What every class of the facts has."""

    model_fields = {}

    def __init__(self, **given):
        name = type(self).__name__
        for field, value in given.items():
            if field not in self.model_fields:
                self._unknown(name, field)
        for field, fact in self.model_fields.items():
            if field in given:
                setattr(self, field, checked(name, field, fact, given[field]))
            elif fact.get("required"):
                raise ValidationError(name, field, "Field required", "missing")
            else:
                setattr(self, field, default(fact))

    def _unknown(self, name, field):
        raise ValidationError(name, field, "Extra inputs are not permitted", "extra_forbidden")

    def dump(self):
        """As plain data, for logs and engines."""
        return {field: plain(getattr(self, field)) for field in self.model_fields}


class SamplingParams(Facts):
    """A dataclass in the real one: it refuses as those do."""

    model_fields = FACTS["classes"]["SamplingParams"]

    def __init__(self, **given):
        super().__init__(**given)
        if self.pad_id is None:
            self.pad_id = self.end_id

    def _unknown(self, name, field):
        raise TypeError(f"{name}.__init__() got an unexpected keyword argument '{field}'")

    def is_greedy(self):
        """Greedy is that nothing is said of sampling, or that nothing is left to chance."""
        said = (self.temperature, self.top_k, self.top_p)
        return said == (None, None, None) or self.top_k == 1 or self.temperature == 0


def plain(value):
    if isinstance(value, Facts):
        return value.dump()
    if isinstance(value, enum.Enum):
        return value.value
    return value if value is None or isinstance(value, (bool, int, float, str, list, dict)) else str(value)


def default(fact):
    kind, _, name = fact["type"].partition(":")
    if kind == "class" and fact["default"] == "new":
        return CLASSES[name]()
    if kind == "enum" and fact["default"] is not None:
        return ENUMERATIONS[name](fact["default"])
    return fact["default"]


def checked(owner, field, fact, value):
    """The value, if the field takes it."""
    kind, _, name = fact["type"].partition(":")
    if value is None or kind == "any":
        return value
    if kind == "enum":
        try:
            return ENUMERATIONS[name](value)
        except ValueError:
            known = " or ".join(repr(member.value) for member in ENUMERATIONS[name])
            raise ValidationError(owner, field, f"Input should be {known}", "enum") from None
    if kind == "literal":
        if value not in fact["values"]:
            raise ValidationError(owner, field, f"Input should be one of {fact['values']}", "literal_error")
    elif kind == "class":
        classes = SPECULATIVE if name == "Speculative" else (CLASSES[name],)
        if not isinstance(value, classes):
            raise ValidationError(owner, field, f"Input should be an instance of {name}", "model_type")
    elif kind == "list":
        if not isinstance(value, list) or not all(type(item) is PRIMITIVES[name] for item in value):
            raise ValidationError(owner, field, f"Input should be a valid list of {name}", "list_type")
    elif kind == "float":
        if type(value) not in (int, float):
            raise ValidationError(owner, field, "Input should be a valid number", "float_type")
    elif type(value) is not PRIMITIVES[kind]:
        raise ValidationError(owner, field, f"Input should be a valid {kind}", f"{kind}_type")
    return value


CLASSES["SamplingParams"] = SamplingParams
for _name, _fields in FACTS["classes"].items():
    if _name not in CLASSES:
        CLASSES[_name] = type(_name, (Facts,), {"model_fields": _fields, "__module__": "tensorrt_llm.llmapi.llm_args"})
for _path in ("pytorch", "tensorrt"):
    _name = {"pytorch": "TorchLlmArgs", "tensorrt": "TrtLlmArgs"}[_path]
    CLASSES[_name] = type(_name, (Facts,), {"model_fields": {**FACTS["llm"]["common"], **FACTS["llm"][_path]}})
SPECULATIVE = tuple(CLASSES[name] for name in {*FACTS["speculative"]["pytorch"], *FACTS["speculative"]["tensorrt"]})

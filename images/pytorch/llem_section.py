"""Options of an experiment, taken one by one; what nobody takes is refused. Standard library only."""

from llem_channel import DriverError


class Section:
    """Options of one level."""

    def __init__(self, name, options):
        if not isinstance(options, dict):
            raise DriverError("invalid_config", f"`{name}` is {options!r}; it must be a section with keys")
        self._name = name
        self._options = {key: value for key, value in options.items() if value is not None}
        self._done = []

    def take(self, key):
        """The option's value; `None` when it is absent."""
        self._done.append(key)
        return self._options.pop(key, None)

    def section(self, key):
        """The section below this one, empty when it is absent."""
        value = self.take(key)
        return Section(f"{self._name}.{key}", {} if value is None else value)

    def flag(self, key):
        """A switch."""
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return value
        raise self._refusal(key, value, "true or false")

    def count(self, key, most, least=1):
        """A whole number from `least` to `most`."""
        value = self.take(key)
        if value is None or (type(value) is int and least <= value <= most):
            return value
        raise self._refusal(key, value, f"a whole number from {least} to {most}")

    def number(self, key):
        """A number, 0 or more."""
        value = self.take(key)
        if value is None or (type(value) in (int, float) and value >= 0):
            return value
        raise self._refusal(key, value, "a number, 0 or more")

    def text(self, key):
        """A text that is not empty."""
        value = self.take(key)
        if value is None or (isinstance(value, str) and value):
            return value
        raise self._refusal(key, value, "a text")

    def choice(self, key, known):
        """One of the names of the engine."""
        value = self.take(key)
        return None if value is None else one_of(f"{self._name}.{key}", value, known)

    def refuse_rest(self):
        """An option that the driver does not do must not look as if it had an effect."""
        for key in self._options:
            known = ", ".join(self._done)
            raise DriverError("unsupported", f"`{self._name}.{key}` is not done by the pytorch driver (done: {known}); remove it")

    def _refusal(self, key, value, rule):
        return DriverError("invalid_config", f"`{self._name}.{key}` is {value!r}; it must be {rule}")


def one_of(name, value, known):
    """A value that the driver does."""
    if value in known:
        return value
    raise DriverError("unsupported", f"`{name}: {value}` is not done by the pytorch driver (done: {', '.join(known)})")

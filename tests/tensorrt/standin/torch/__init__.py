"""A stand-in: the GPUs of the script, and versions."""

from standin import FACTS

from . import cuda, version  # noqa: F401

__version__ = FACTS["torch"]

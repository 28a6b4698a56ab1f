"""A stand-in: its version is all there is."""

from standin import SCRIPT

__version__ = SCRIPT["tensorrt"]

"""Plugins of compiled engines."""

from ._classes import CLASSES

PluginConfig = CLASSES["PluginConfig"]

"""The GPUs of the script."""

import types

from standin import SCRIPT


def is_available():
    return bool(SCRIPT["gpus"])


def device_count():
    return len(SCRIPT["gpus"])


def get_device_properties(index):
    major, minor = map(int, SCRIPT["compute"].split("."))
    return types.SimpleNamespace(name=SCRIPT["device"], uuid=SCRIPT["gpus"][index], major=major, minor=minor)

"""An independent reader of a GPU's energy counter: nothing but ctypes, in a process of its own.

usage: reader.py UUID FILE     reads until stdin is closed; appends `before_ns after_ns millijoules` at every change, and prints first how
                               many bytes of memory NVML takes
"""

import ctypes
import resource
import select
import sys
import time

# How long the counter is left alone after it has changed.
REST_NS = 80_000_000


def main(uuid, path):
    before = resident_bytes()
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    check(nvml.nvmlInit_v2(), "nvmlInit")
    print(resident_bytes() - before, flush=True)
    device = ctypes.c_void_p()
    check(nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)), f"GPU {uuid}")
    energy, last, last_before = ctypes.c_ulonglong(), None, time.monotonic_ns()
    with open(path, "w", encoding="ascii") as file:
        while not select.select([sys.stdin], [], [], 0)[0]:
            before = time.monotonic_ns()
            check(nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy)), "energy counter")
            after = time.monotonic_ns()
            if energy.value != last:
                # The counter changed between the beginning of the last read with the old value and the end of this one.
                file.write(f"{last_before} {after} {energy.value}\n")
                file.flush()
                last = energy.value
                # The next change is 100 ms after this one; to read all the time would keep others from the driver.
                time.sleep(max(0, (before + REST_NS - time.monotonic_ns()) / 1e9))
            last_before = before


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def check(code, what):
    if code != 0:
        sys.exit(f"reader: {what}: NVML error {code}")


main(sys.argv[1], sys.argv[2])

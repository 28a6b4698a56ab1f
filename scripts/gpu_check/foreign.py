"""A foreign process on the GPU: gets ready, waits for a line on stdin, then works for some seconds."""

import sys
import time

import torch

print("ready", flush=True)
sys.stdin.readline()
a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    a = (a @ a) / 64
    torch.cuda.synchronize()

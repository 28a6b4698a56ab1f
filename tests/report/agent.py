#!/usr/bin/env python3
"""Stands in the agent's place and hands out runs whose truth is known: what tests/report/make makes the study `energy` with.

Speed and power depend on batch size and length of the prompts; every run scatters by a fixed draw. Cycle 3 of the largest batch with long
prompts has a reason against it; cycle 4 of the smallest batch with short prompts takes 9 % more power than its neighbours.
"""

import hashlib
import json
import pathlib
import random
import sys

S = 1_000_000_000
PACKAGE = {"source": "rapl", "id": "package-0", "scope": "package"}
MEMORY = {"source": "rapl", "id": "dram-0", "scope": "memory"}
IDLE_W = {"package-0": 42.0, "dram-0": 6.0}

job = json.load(open(sys.argv[1]))
run_id = job["run_id"]
cycle = int(run_id.rsplit("-c", 1)[1])
out = pathlib.Path(job["output_dir"])
here = pathlib.Path(__file__).parent
batch = job["engine"]["options"]["batch_size"]
prompts = [json.loads(line) for line in open(job["workload"]["path"])]
lengths = [len(prompt["prompt_ids"]) for prompt in prompts]
outputs = [prompt["output_tokens"] for prompt in prompts]
length = lengths[0]
draw = random.Random(1000 * batch + 10 * length + cycle)
scatter = lambda sd: 1.0 + draw.gauss(0.0, sd)

rate = {1: 31.0, 4: 78.0}.get(batch, 50.0) * (1.0 if length < 100 else 0.87) * scatter(0.004)
watts = {1: 96.0, 4: 128.0}.get(batch, 110.0) * (1.0 if length < 100 else 1.05) * scatter(0.006)
if (batch, length < 100, cycle) == (1, True, 4):
    watts *= 1.09

tokens = sum(outputs)
passes = max(1, round(12.0 * rate / tokens))
window_s = passes * tokens / rate
t = {"baseline": (0.0, 5.0), "import": (5.0, 5.4), "load": (5.4, 7.2), "warmup": (7.2, 13.2), "window": (13.2, 13.2 + window_s)}
end = t["window"][1]
t.update(prefill=(end + 0.2, end + 3.2), shutdown=(end + 3.2, end + 3.5))
base_ns = 1000 * S
ns = lambda seconds: base_ns + int(seconds * S)


def power(domain, at):
    """True power at a moment."""
    idle = IDLE_W[domain["id"]]
    busy = watts if domain is PACKAGE else idle + 0.09 * watts
    if at < t["import"][1]:
        return idle
    if at < t["load"][1]:
        return idle + 0.35 * (busy - idle)
    if t["window"][1] < at < t["prefill"][0] or at > t["prefill"][1]:
        return idle + 0.1 * (busy - idle)
    # Each batch begins with a burst: its prefill.
    period = window_s / (passes * max(1, len(prompts) // batch))
    return busy * (1.18 if (at - t["window"][0]) % period < 0.12 * period else 0.975)


def joules(domain, start, stop):
    steps = max(10, int((stop - start) * 200))
    width = (stop - start) / steps
    return sum(power(domain, start + (i + 0.5) * width) for i in range(steps)) * width


def energy(start, stop):
    def device(domain):
        used = joules(domain, start, stop)
        edge = lambda at: {"t_ns": ns(at), "aligned": True, "bracket_ms": 1.0, "counter_j": 0.0}
        peak = max(power(domain, start + i * (stop - start) / 500) for i in range(500))
        return {"domain": domain, "start": edge(start), "end": edge(stop), "energy_j": used, "method": "counter",
                "edge_u_j": 0.004 * power(domain, start), "sampling_u_j": 0.0, "counter_j": used, "curve_j": used * 1.0004,
                "curve_u_j": 0.002 * used, "curve_kind": "mean", "lead_j": 0.0, "tail_j": 0.0, "mean_w": used / (stop - start),
                "peak_w": peak, "samples": int((stop - start) * 4)}
    return {"devices": [device(PACKAGE), device(MEMORY)]}


records = []
for number in range(passes):
    start = t["window"][0] + number * tokens / rate
    per_batch = tokens / rate / (len(prompts) / batch)
    for index, (prompt, count) in enumerate(zip(lengths, outputs)):
        begin = start + (index // batch) * per_batch
        first = begin + 0.12 * per_batch * scatter(0.02)
        step = (per_batch * 0.995 - (first - begin)) / count
        stamps = [ns(first + step * k) for k in range(count)]
        records.append({"pass": number, "index": index, "batch": index // batch, "prompt_tokens": prompt, "submit_ns": ns(begin),
                        "token_ns": stamps, "output_ids": list(range(1, count + 1))})

noise = random.Random(cycle)
samples = []
at = 0.0
while at < t["shutdown"][1]:
    for domain in (PACKAGE, MEMORY):
        samples.append({"t_ns": ns(at), "domain": domain, "power_w": round(power(domain, at) * (1 + noise.gauss(0, 0.01)), 2),
                        "curve_kind": "mean"})
    at += 0.25

clock = {"monotonic_ns": base_ns, "realtime_ns": 1_795_000_000 * S}
idle = lambda domain: {"domain": domain, "mean_w": IDLE_W[domain["id"]], "spread_w": 0.3, "mean_u_w": 0.1}
one_pass = lambda number: {"pass": number, "start_ns": ns(t["window"][0] + number * tokens / rate),
                           "end_ns": ns(t["window"][0] + (number + 1) * tokens / rate), "prompt_tokens": sum(lengths), "output_tokens": tokens}
reasons = []
if (batch, length < 100, cycle) == (4, False, 3):
    reasons = [{"code": "sources_disagree", "severity": "invalid", "message": "counter and curve of package-0 differ by 3.1 %, more than 1 %"}]
report = {
    "schema_version": int((here / "report-version").read_text()), "run_id": run_id, "agent_version": "0", "clock_start": clock, "clock_end": clock,
    "environment": {"gpus": [], "cpu_model": "scripted", "cpus": 2},
    "phases": [{"phase": name, "start_ns": ns(start), "end_ns": ns(stop), "energy": energy(start, stop) if stop - start > 1 else None}
               for name, (start, stop) in t.items()],
    "baseline": {"start_ns": ns(0.0), "end_ns": ns(5.0), "devices": [idle(PACKAGE), idle(MEMORY)]},
    "window": {"start_ns": ns(t["window"][0]), "end_ns": ns(t["window"][1]), "energy": energy(*t["window"]), "split": [],
               "passes": [one_pass(number) for number in range(passes)],
               "agent": {"cpu_s": 0.01, "cpu_share": 0.001, "resident_bytes": 3_000_000}},
    "reasons": reasons, "request_records": len(records), "power_samples": len(samples),
}
text = json.dumps(report)
(out / "report.json").write_text(text)
(out / "requests.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
(out / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
protocol = int((here / "protocol").read_text())
print(json.dumps({"seq": 0, "t_ns": 0, "event": "hello", "protocol_version": protocol, "agent_version": "0", "run_id": run_id, "pid": 1,
                  "realtime_ns": 0}))
print(json.dumps({"seq": 1, "t_ns": 0, "event": "done", "report_sha256": hashlib.sha256(text.encode()).hexdigest()}), flush=True)

"""What llem says of a window against what the independent reader saw."""

import bisect


class Reader:
    """The reader's record: the counter in joules at the moments at which it was seen to change."""

    def __init__(self, path):
        self.times, self.joules = [], []
        with open(path, encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if len(fields) == 3:
                    self.times.append((int(fields[0]) + int(fields[1])) / 2)
                    self.joules.append(int(fields[2]) / 1e3)
        # The first line is the value that was found, not a change.
        del self.times[:1], self.joules[:1]

    def at(self, t_ns):
        """Joules at a moment, linear between the counter's ticks."""
        after = bisect.bisect_left(self.times, t_ns)
        if after == 0 or after == len(self.times):
            raise ValueError(f"the reader saw nothing around {t_ns} ns")
        (t0, t1), (j0, j1) = self.times[after - 1 : after + 1], self.joules[after - 1 : after + 1]
        return j0 + (j1 - j0) * (t_ns - t0) / (t1 - t0)

    def latest(self, t_ns):
        """The value that a single read at this moment would have given: that of the last tick."""
        return self.joules[bisect.bisect_right(self.times, t_ns) - 1]

    def between(self, from_ns, to_ns):
        """Energy between two moments."""
        return self.at(to_ns) - self.at(from_ns)


def percent(found, expected):
    return (found - expected) / expected * 100


def window(result, reader, domain_id):
    """One run's figures beside the reader's, and whether the stated uncertainty covers the difference."""
    record = result["window"]
    device = next(d for d in record["energy"]["devices"] if d["domain"]["id"] == domain_id and d["domain"].get("scope", "gpu") == "gpu")
    edges_j = reader.between(device["start"]["t_ns"], device["end"]["t_ns"])
    work_j = reader.between(record["start_ns"], record["end_ns"])
    naive_j = reader.latest(record["end_ns"]) - reader.latest(record["start_ns"])
    seconds = (record["end_ns"] - record["start_ns"]) / 1e9
    return {
        "run_id": result["run_id"],
        "seconds": seconds,
        "mean_w": device["mean_w"],
        "aligned": device["start"]["aligned"] and device["end"]["aligned"],
        "bracket_ms": [device["start"]["bracket_ms"], device["end"]["bracket_ms"]],
        "llem_edges_j": device["counter_j"],
        "reader_edges_j": edges_j,
        "edges_percent": percent(device["counter_j"], edges_j),
        "llem_j": device["energy_j"],
        "reader_j": work_j,
        "work_percent": percent(device["energy_j"], work_j),
        "edge_u_j": device["edge_u_j"],
        "difference_over_expanded_u": abs(device["counter_j"] - edges_j) / (2 * device["edge_u_j"]),
        "unaligned_j": naive_j,
        "unaligned_percent": percent(naive_j, work_j),
        "lead_j": device["lead_j"],
        "tail_j": device["tail_j"],
        "curve_j": device["curve_j"],
        "curve_percent": percent(device["curve_j"], device["counter_j"]) if device["curve_j"] else None,
        "agent_core_percent": record["agent"]["cpu_share"] * 100,
        "agent_resident_mib": record["agent"]["resident_bytes"] / 2**20,
        "split": record.get("split"),
    }

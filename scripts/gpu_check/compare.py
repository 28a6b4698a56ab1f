"""What llem says of a window against what the independent reader saw."""

import bisect
import math


# A change that was seen no better than this is left out, in nanoseconds.
WORST_BRACKET_NS = 30e6
# A tick that llem found is one of the reader's when it is no further away than this, in nanoseconds.
SAME_TICK_NS = 50e6
# The first tick that has seen all of the work is at least this much later, in nanoseconds.
SENSOR_LAG_NS = 30e6


class Reader:
    """The reader's record: the counter in joules at the moments at which it was seen to change."""

    def __init__(self, path):
        self.times, self.brackets, self.joules = [], [], []
        with open(path, encoding="ascii") as file:
            lines = [line.split() for line in file]
        # The first line is the value that was found, not a change.
        for before, after, millijoules in (map(int, fields) for fields in lines[1:] if len(fields) == 3):
            if after - before <= WORST_BRACKET_NS:
                self.times.append((before + after) / 2)
                self.brackets.append(after - before)
                self.joules.append(millijoules / 1e3)
        for place in range(1, len(self.times) - 1):
            self._refine(place)

    def _refine(self, place):
        """The counter ticks evenly: a change that was seen late, because somebody else was reading, lies in the middle of its
        neighbours."""
        middle = (self.times[place - 1] + self.times[place + 1]) / 2
        bracket = math.hypot(self.brackets[place - 1], self.brackets[place + 1]) / 2
        # Neighbours that are no neighbours, because a tick between them was left out, have their middle outside of the bracket.
        if bracket < self.brackets[place] / 2 and abs(middle - self.times[place]) <= self.brackets[place] / 2:
            self.times[place], self.brackets[place] = middle, bracket

    def tick(self, t_ns):
        """The counter at the tick that llem found at this moment."""
        after = bisect.bisect_left(self.times, t_ns)
        near = min(range(max(after - 1, 0), min(after + 1, len(self.times))), key=lambda place: abs(self.times[place] - t_ns))
        if abs(self.times[near] - t_ns) > SAME_TICK_NS:
            raise ValueError(f"the reader saw no tick around {t_ns} ns")
        return self.joules[near]

    def latest(self, t_ns):
        """The value that a single read at this moment would have given: that of the last tick."""
        return self.joules[bisect.bisect_right(self.times, t_ns) - 1]

    def work(self, start_ns, end_ns):
        """Energy of work between two moments, by the counter alone, and its standard uncertainty: between the ticks around it, less what
        the idle device took there, by its power from one tick to the next before and after. A tick lies anywhere in its bracket."""
        first = bisect.bisect_right(self.times, start_ns) - 1
        # A tick that may have been before the start is the better one: what came before it is no lead.
        if self.times[first + 1] - self.brackets[first + 1] / 2 <= start_ns:
            first += 1
        last = bisect.bisect_left(self.times, end_ns + SENSOR_LAG_NS)
        lead_w, tail_w = self._power(first - 1), self._power(last)
        lead_j = lead_w * (start_ns - self.times[first]) / 1e9
        tail_j = tail_w * (self.times[last] - end_ns) / 1e9
        # Where the tick may have been after the start, what is wrong has the power of the work.
        edge_w = max(lead_w, self._power(first)) if self.times[first] + self.brackets[first] / 2 > start_ns else lead_w
        u_j = math.hypot(edge_w * self.brackets[first], tail_w * self.brackets[last]) / math.sqrt(12) / 1e9
        return self.joules[last] - self.joules[first] - lead_j - tail_j, u_j

    def _power(self, place):
        return (self.joules[place + 1] - self.joules[place]) / (self.times[place + 1] - self.times[place]) * 1e9


def percent(found, expected):
    return (found - expected) / expected * 100


def window(result, reader, domain_id):
    """One run's figures beside the reader's, and whether the stated uncertainty covers the difference."""
    record = result["window"]
    device = next(d for d in record["energy"]["devices"] if d["domain"]["id"] == domain_id and d["domain"].get("scope", "gpu") == "gpu")
    edges_j = reader.tick(device["end"]["t_ns"]) - reader.tick(device["start"]["t_ns"])
    work_j, reader_u_j = reader.work(record["start_ns"], record["end_ns"])
    naive_j = reader.latest(record["end_ns"]) - reader.latest(record["start_ns"])
    seconds = (record["end_ns"] - record["start_ns"]) / 1e9
    # What the study's tables are made of, not what the agent handed over: the host's sums lie between the two. As read, for the reader knows
    # of no calibration.
    llem_j = result["metrics"]["energy"]["energy_raw_j"]
    return {
        "run_id": result["run_id"],
        "seconds": seconds,
        "mean_w": device["mean_w"],
        "aligned": device["start"]["aligned"] and device["end"]["aligned"],
        "bracket_ms": [device["start"]["bracket_ms"], device["end"]["bracket_ms"]],
        "llem_edges_j": device["counter_j"],
        "reader_edges_j": edges_j,
        "edges_percent": percent(device["counter_j"], edges_j),
        "llem_j": llem_j,
        "reader_j": work_j,
        "work_percent": percent(llem_j, work_j),
        "edge_u_j": device["edge_u_j"],
        "difference_over_expanded_u": abs(llem_j - work_j) / (2 * device["edge_u_j"]),
        "reader_u_j": reader_u_j,
        # The score E_n of ISO 13528: the uncertainties of both.
        "normalized_error": abs(llem_j - work_j) / (2 * math.hypot(device["edge_u_j"], reader_u_j)),
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

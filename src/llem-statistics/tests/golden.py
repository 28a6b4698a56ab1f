"""Makes golden.json: what SciPy says of the same values. `pip install scipy==1.17.1 numpy`, then `python3 golden.py > golden.json`."""

import json
import platform

import numpy
import scipy
from scipy import stats

rng = numpy.random.default_rng(20261122)
SAMPLES = {
    "normal 5": rng.normal(100, 2, 5),
    "normal 30": rng.normal(100, 2, 30),
    "lognormal 12": rng.lognormal(0, 0.8, 12),
    "with an outlier": numpy.append(rng.normal(10, 0.1, 9), 14.0),
    "large offset": 1e9 + rng.normal(0, 1, 8),
}


def means(values, resamples=400):
    return rng.choice(values, (resamples, len(values))).mean(axis=1)


def bca(values, distribution, level):
    """SciPy's own BCa on a distribution that is given, so that no draw differs."""
    drawn = stats._resampling.BootstrapResult(None, distribution, None)
    result = stats.bootstrap((values,), numpy.mean, n_resamples=0, bootstrap_result=drawn, confidence_level=level, method="BCa")
    return list(result.confidence_interval)


def sample(name, values):
    distribution = means(values)
    jackknife = [numpy.delete(values, i).mean() for i in range(len(values))]
    drawn = stats.bootstrap((values,), numpy.mean, n_resamples=100_000, method="BCa", rng=rng).confidence_interval
    return {
        "name": name,
        "values": list(values),
        "t": list(stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))),
        "t_80": list(stats.t.interval(0.80, len(values) - 1, values.mean(), stats.sem(values))),
        "distribution": list(distribution),
        "jackknife": jackknife,
        "bca": bca(values, distribution, 0.95),
        "bca_80": bca(values, distribution, 0.80),
        "bca_drawn": list(drawn),
    }


def comparison(name, a, b):
    a, b = numpy.array(a), numpy.array(b)
    welch = stats.ttest_ind(numpy.log(b), numpy.log(a), equal_var=False)
    result = {"name": name, "first": list(a), "second": list(b), "welch_p": welch.pvalue,
              "welch": list(numpy.expm1(welch.confidence_interval(0.95))), "paired_p": None, "paired": None, "above_2_percent": None}
    if len(a) == len(b):
        ratio = numpy.log(b) - numpy.log(a)
        pairs = stats.ttest_1samp(ratio, 0.0)
        result |= {"paired_p": pairs.pvalue, "paired": list(numpy.expm1(pairs.confidence_interval(0.95))),
                   "above_2_percent": stats.ttest_1samp(ratio, numpy.log(1.02), alternative="greater").pvalue}
    return result


def quantile(n, p):
    """The exact bootstrap of a quantile by the binomial: places, from 0, of the limits."""
    rank = int(numpy.ceil(n * p))
    reach = stats.binom.sf(rank - 1, n, numpy.arange(1, n + 1) / n)
    return {"n": n, "p": p, "low": int(numpy.argmax(reach >= 0.025)), "high": int(numpy.argmax(reach >= 0.975))}


def trend(values):
    found = stats.kendalltau(range(len(values)), values, method="exact")
    slope = stats.theilslopes(values).slope
    return {"values": list(values), "tau": found.statistic, "p_value": found.pvalue, "per_step": slope}


base = rng.normal(50, 1, 6)
print(json.dumps({
    "made_with": {"scipy": scipy.__version__, "numpy": numpy.__version__, "python": platform.python_version()},
    "samples": [sample(name, values) for name, values in SAMPLES.items()],
    "comparisons": [
        comparison("pairs", base, base * rng.normal(1.03, 0.004, 6)),
        comparison("the same", rng.normal(50, 1, 5), rng.normal(50, 1, 5)),
        comparison("unequal numbers", rng.normal(50, 1, 4), rng.normal(53, 3, 9)),
    ],
    "quantiles": [quantile(n, p) for n, p in [(6, 0.5), (40, 0.9), (200, 0.5), (200, 0.95), (368, 0.99), (5000, 0.99)]],
    "trends": [trend(rng.normal(0, 1, 7)), trend(numpy.arange(9) + rng.normal(0, 2, 9)), trend(rng.normal(0, 1, 30))],
}, indent=1))

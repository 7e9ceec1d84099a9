"""Error against number of steps, for every deterministic solver: a log-log plot, and the slopes.

    python tests/benchmarks/convergence.py --output convergence.png

The images are Gaussian, so the solution of the probability-flow equation is known: see
`tests/test_samplers.py`, which tests the slopes. Each solver is run twice: from exact starting
values, which show the order of its formula, and as `generate` runs it, with first steps of lower
order for want of earlier predictions.
"""

import argparse
import pathlib
import sys

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import test_samplers as tests

ALL_STEPS = (8, 16, 32, 64, 128, 256, 512)
SPACINGS = (tests.cosine, tests.log_snr_linear, tests.random)
STARTS = ("exact start", "generate's start")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="where to write the plot, such as a .png")
    output = parser.parse_args().output

    figure = Figure(figsize=(15, 13), layout="constrained")
    axes = figure.subplots(len(STARTS), len(SPACINGS), sharex=True, sharey=True)
    titles = [f"{spacing.__name__}, {start}" for spacing in SPACINGS for start in STARTS]
    print(f"{'slope over the last four':78}{'order':>6}", *(f"{title:>27}" for title in titles))
    for i, sampler in enumerate(tests.DETERMINISTIC):
        style = {"color": f"C{i % 10}", "marker": "osv"[i // 10], "markersize": 4}
        slopes = []
        for column, spacing in enumerate(SPACINGS):
            for row, exact_steps in enumerate((tests.steps_to_start(sampler), 0)):
                errors = tests.measure_errors(sampler, spacing, ALL_STEPS, exact_steps)
                slopes.append(tests.slope(ALL_STEPS[-4:], errors[-4:]))
                axes[row, column].loglog(ALL_STEPS, errors, label=repr(sampler), **style)
        order = tests.order_of_accuracy(sampler)
        print(f"{sampler!r:78}{order:6}", *(f"{slope:27.2f}" for slope in slopes), flush=True)

    for row, start in enumerate(STARTS):
        for column, spacing in enumerate(SPACINGS):
            ax = axes[row, column]
            for order in range(1, 6):
                guide = 0.5 * (ALL_STEPS[0] / np.array(ALL_STEPS, float)) ** order
                ax.loglog(ALL_STEPS, guide, color="0.8", linewidth=1, zorder=0)
                ax.annotate(f"order {order}", (ALL_STEPS[-1], guide[-1]), color="0.5", fontsize=7)
            ax.set_title(f"{spacing.__name__}, {start}")
            ax.set_ylim(1e-13, 1)
    for ax in axes[-1]:
        ax.set_xlabel("steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("root mean square error where the list ends")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()

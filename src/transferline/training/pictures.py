"""A study as pictures and as a table."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.trial import TrialState

from transferline.artifacts import Probed, atomic, write_csv


def draw_study(study: optuna.Study, folder: Path) -> None:
    """Write trials.csv and, as far as the trials suffice, the pictures that Optuna's users look at.

    history.png needs one completed trial; importances.png and parallel.png need two that differ.
    """
    _table(study, folder / "trials.csv")
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    if done:
        _draw(optuna.visualization.matplotlib.plot_optimization_history, study, folder / "history.png")
    if len({trial.value for trial in done}) > 1:
        _draw(optuna.visualization.matplotlib.plot_param_importances, study, folder / "importances.png")
        _draw(optuna.visualization.matplotlib.plot_parallel_coordinate, study, folder / "parallel.png")


def draw_probe(probed: Probed, path: Path) -> None:
    """Accuracy of linear probes by block: on each alone, and on it with all above it."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    blocks = range(1, len(probed.alone) + 1)
    axes.bar(blocks, [one.accuracy for one in probed.alone], color="#b8c7d9", label="this block alone")
    upwards = np.array([one.accuracy for one in probed.upwards])
    low, high = np.array([one.interval for one in probed.upwards]).T
    axes.errorbar(blocks, upwards, [upwards - low, high - upwards], color="#1f4e79", capsize=3, marker="o",
                  label="this block and all above it, with 95 % interval")  # fmt: skip
    axes.axvline(
        probed.depth + 0.5, color="#b03030", linestyle="--", label="suggested freeze depth: blocks to the left"
    )
    axes.set(xlabel="block of the backbone, from the input on", ylabel="accuracy, cross-validated on train",
             xticks=list(blocks), ylim=(0, 1))  # fmt: skip
    axes.set_title(f"Linear probe on frozen features: {probed.taken.accuracy:.3f} with {probed.features}")
    axes.legend(loc="lower right", fontsize=8)
    with atomic(path) as partial:
        figure.savefig(partial, dpi=110, metadata={"Software": None}, format="png")


def _draw(plot: Callable[[optuna.Study], Any], study: optuna.Study, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Attempting to set identical")  # where all had one batch size
        plot(study)
    figure = plt.gcf()
    figure.set_size_inches(8, 4.5)
    figure.tight_layout()
    with atomic(path) as partial:
        figure.savefig(partial, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _table(study: optuna.Study, path: Path) -> None:
    names = sorted({name for trial in study.trials for name in trial.params})
    rows = []
    for trial in study.trials:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        rows.append([trial.number, trial.state.name.lower(), value, *(trial.params.get(name) for name in names)])
    write_csv(path, ["trial", "state", "value", *names], rows)

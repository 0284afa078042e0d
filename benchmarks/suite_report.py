"""What `suite` found: figures of each side, paired differences with 95 % intervals, tables, JSON.

A set's figures are means over its seeds. Intervals are those of a paired bootstrap (Efron 1979) over the test images of
each set: an image that several seeds test is drawn with all its answers. The preferred probe is, for each seed, the
one of better cross-validated log loss; the better probe is, for each set, the one of better macro-F1 on test, which
nobody can know beforehand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from transferline.evaluation.bootstrap import headlines
from transferline.evaluation.paired import mcnemar

RESAMPLES = 2000
PROBES = ("probe_last", "probe_all")
REFERENCES = ("preferred_probe", "better_probe", "fastai")
SIDES = ("line", *PROBES, *REFERENCES)
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Records = Mapping[str, dict[str, Any]]  # side -> what it left


@dataclass(frozen=True)
class Split:
    """The test images of one data set and seed.

    Attributes:
        labels: int64 [N], below `classes`.
        predicted: int64 [N] of each side.
    """

    paths: list[str]
    labels: Labels
    classes: int
    predicted: dict[str, Labels]

    def members(self, indices: Labels) -> npt.NDArray[np.bool_]:
        """bool [N, classes]."""
        return indices[:, np.newaxis] == np.arange(self.classes)

    def figures(self, side: str, weights: Floats) -> dict[str, Floats]:
        """Accuracy and macro-F1 of a side, each float64 [B], for B weights of each image, [B, N]."""
        return headlines(weights, self.members(self.labels), self.members(self.predicted[side]))


def read_split(records: Records) -> Split:
    """Of the records of one data set and seed, those of the line among them."""
    truth, classes = records["line"]["truth"], records["line"]["classes"]
    index = {name: number for number, name in enumerate(classes)}
    answers = {side: np.array([index[record["predicted"][path]] for path in truth]) for side, record in records.items()}
    if all(name in records for name in PROBES):
        answers["preferred_probe"] = answers[min(PROBES, key=lambda name: float(records[name]["log_loss"]))]
    return Split(list(truth), np.array([index[name] for name in truth.values()]), len(classes), answers)


def with_better(splits: Sequence[Split]) -> list[Split]:
    """The splits of one data set, with the answers of the better probe where there are probes."""
    probes = [name for name in PROBES if all(name in split.predicted for split in splits)]
    if not probes:
        return list(splits)
    better = max(probes, key=lambda name: means(splits, name)["macro_f1"])
    return [replace(split, predicted=split.predicted | {"better_probe": split.predicted[better]}) for split in splits]


def means(splits: Sequence[Split], side: str) -> dict[str, float]:
    """Accuracy and macro-F1, over the seeds that have the side."""
    found = [split.figures(side, np.ones((1, len(split.paths)))) for split in splits if side in split.predicted]
    return {name: float(np.mean([figures[name][0] for figures in found])) for name in ("accuracy", "macro_f1")}


def paired(sets: Sequence[Sequence[Split]], reference: str, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The line less `reference`, on the seeds that have both: accuracy over all images, macro-F1 as the mean of sets.

    Returns:
        Both differences and their 95 % intervals, the number of test images, and the p-value of McNemar's exact test.
    """
    generator = np.random.default_rng(0)
    sets = [[split for split in splits if reference in split.predicted] for splits in sets]
    hits, totals, macro_f1 = np.zeros(resamples + 1), np.zeros(resamples + 1), []
    alone = np.zeros(2, dtype=np.int64)
    for splits in filter(None, sets):
        place = {path: at for at, path in enumerate(dict.fromkeys(path for split in splits for path in split.paths))}
        drawn = generator.multinomial(len(place), np.full(len(place), 1 / len(place)), size=resamples)
        weights = np.vstack([np.ones(len(place)), drawn])  # the first row is the data as they are
        gaps = []
        for split in splits:
            counts = weights[:, [place[path] for path in split.paths]]
            right, other = (split.predicted[side] == split.labels for side in ("line", reference))
            hits += counts @ (right.astype(np.float64) - other)
            totals += counts.sum(axis=1)
            alone += [(right & ~other).sum(), (other & ~right).sum()]
            gaps.append(split.figures("line", counts)["macro_f1"] - split.figures(reference, counts)["macro_f1"])
        macro_f1.append(np.mean(gaps, axis=0))
    accuracy, mean_f1 = hits / totals, np.mean(macro_f1, axis=0)
    return {
        "images": int(totals[0]),
        "accuracy": float(accuracy[0]),
        "accuracy_interval": np.percentile(accuracy[1:], [2.5, 97.5]).tolist(),
        "macro_f1": float(mean_f1[0]),
        "macro_f1_interval": np.percentile(mean_f1[1:], [2.5, 97.5]).tolist(),
        "p_value": mcnemar(int(alone[0]), int(alone[1])),
    }


def winner(compared: Mapping[str, Any], reference: str) -> str:
    """Who is better beyond chance: in accuracy by McNemar's test at 5 %, in macro-F1 by the interval."""
    low, high = compared["macro_f1_interval"]
    sure = {"accuracy": compared["p_value"] < 0.05, "macro-F1": low > 0 or high < 0}
    signs = {"accuracy": compared["accuracy"], "macro-F1": compared["macro_f1"]}
    won = [f"{'line' if signs[name] > 0 else _title(reference)} ({name})" for name in signs if sure[name]]
    return ", ".join(won) or "nobody"


def summary(found: Mapping[str, Mapping[int, Records]]) -> dict[str, Any]:
    """All figures, from the records of each set and seed; neither paths nor images."""
    sets = {name: with_better([read_split(records) for records in seeds.values()]) for name, seeds in found.items()}
    content: dict[str, Any] = {"sets": {}, "pooled": _compared(list(sets.values()))}
    for name, splits in sets.items():
        sides = [side for side in SIDES if any(side in split.predicted for split in splits)]
        content["sets"][name] = {
            "images": len(splits[0].paths),
            "classes": splits[0].classes,
            "figures": {side: means(splits, side) for side in sides},
            "compared": _compared([splits]),
            "seeds": {str(seed): _raw(records) for seed, records in found[name].items()},
        }
    return content


def _compared(sets: Sequence[Sequence[Split]]) -> dict[str, Any]:
    there = [name for name in REFERENCES if any(name in split.predicted for splits in sets for split in splits)]
    return {name: paired(sets, name) for name in there}


def _raw(records: Records) -> dict[str, Any]:
    left_out = {"truth", "predicted", "classes", "key", "manifest"}
    split = read_split(records)
    return {
        side: {name: value for name, value in record.items() if name not in left_out} | means([split], side)
        for side, record in records.items()
    }


def tables(content: Mapping[str, Any]) -> str:
    """Markdown: the figures of each set, and the paired differences of all sets together and of each."""
    return f"{_figures(content['sets'])}\n\n{_differences(content)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def _title(side: str) -> str:
    return side.replace("_", " ")


def _figures(sets: Mapping[str, Any]) -> str:
    shown = [side for side in SIDES if side != "better_probe"]
    rows = []
    for name, found in sets.items():
        lines = [sides["line"] for sides in found["seeds"].values()]
        minutes = f"{max(line['seconds'] for line in lines) / 60:.1f}"
        depths = ", ".join(str(line["freeze_depth"]) for line in lines)
        cells = [_mean([found["figures"].get(side)]) for side in shown]
        rows.append([name, str(found["images"]), *cells, minutes, depths])
    overall = [_mean([found["figures"].get(side) for found in sets.values()]) for side in shown]
    rows.append(["mean", "", *overall, "", ""])
    heads = ["data set", "test images", *map(_title, shown), "minutes, at most", "freeze depths"]
    return f"Accuracy / macro-F1 on test, means over seeds (fastai: the first seed).\n\n{_table(heads, rows)}"


def _mean(figures: Sequence[Mapping[str, float] | None]) -> str:
    known = [one for one in figures if one]
    return " / ".join(f"{fmean(one[key] for one in known):.3f}" for key in ("accuracy", "macro_f1")) if known else ""


def _differences(content: Mapping[str, Any]) -> str:
    compared = {"all sets": content["pooled"]} | {name: found["compared"] for name, found in content["sets"].items()}
    rows = []
    for name, references in compared.items():
        for reference, one in references.items():
            accuracy, macro_f1 = (
                f"{one[key]:+.3f} ({one[f'{key}_interval'][0]:+.3f} to {one[f'{key}_interval'][1]:+.3f})"
                for key in ("accuracy", "macro_f1")
            )
            cells = [str(one["images"]), accuracy, f"{one['p_value']:.3f}", macro_f1, winner(one, reference)]
            rows.append([name, _title(reference), *cells])
    intervals = ["accuracy (95 % interval)", "McNemar's p", "macro-F1 (95 % interval)"]
    heads = ["data set", "line less", "answers", *intervals, "significantly better"]
    return f"Paired differences, over all seeds.\n\n{_table(heads, rows)}"

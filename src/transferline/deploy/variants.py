"""The exported model in every form asked for: made, judged on validation, and the preferred one proved on test."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from transferline.artifacts import Arrays, atomic, writable, write_json
from transferline.deploy import bench, export, latency, parity, survival
from transferline.deploy.agreement import Parity, Probabilities, compare
from transferline.deploy.predictor import Predictor
from transferline.deploy.session import line
from transferline.errors import UserError
from transferline.evaluation import paired, variants, variants_picture
from transferline.evaluation.multiclass import Multiclass
from transferline.evaluation.multilabel import Multilabel
from transferline.evaluation.outcome import Outcome
from transferline.evaluation.variants import Failed, Judged, Measured, Result
from transferline.sections import REFERENCE, Export

RESAMPLES = 2000  # of the paired bootstrap

Maker = Callable[[Path, Path], Mapping[str, Any]]  # fp32's file, the variant's: writes that, and says how it did


@dataclass(frozen=True)
class Given:
    """What the model is exported from and judged by.

    Attributes:
        deployed: what is exported.
        properties: what the fp32 file says of itself, from `export.metadata`.
        reference: evaluate's predictions of the test split, the original images, and the options.
        validation: whose clean view the variants are judged on: to the graph these are raw images, which its resize
            leaves as they are.
        makers: of the variants other than fp32, by name.
        seed: of the bootstrap.
    """

    deployed: export.Deployed
    properties: dict[str, str]
    reference: parity.Reference
    validation: Arrays
    makers: Mapping[str, Maker]
    seed: int

    @property
    def options(self) -> Export:
        return self.reference.options


def produce(given: Given, onnx: Path, reports: Path) -> tuple[Judged, Parity]:
    """Put the preferred variant at `onnx`, and the others that were kept beside it as <stem>.<variant>.onnx.

    The folder of `onnx` is made anew as a whole; nothing is left there where the model is refused. What was found is
    in `reports` either way: variants.json, variants.png and parity.json.

    Raises:
        UserError: where the exported model disagrees with evaluate, with the worst images.
    """
    shutil.rmtree(onnx.parent, ignore_errors=True)
    with atomic(onnx.parent) as folder:
        folder.mkdir()
        attempted = {name: _attempted(name, given, folder) for name in _order(given.options)}
        judged = _judged(given, attempted, reports)
        made = {name: one for name, one in attempted.items() if isinstance(one, _Made)}
        verdict = _proved(given, made[judged.preferred].file, made[REFERENCE].answers)
        write_json(reports / "parity.json", asdict(verdict))
        verdict.require()
        for name, one in made.items():
            if name in judged.refused:
                one.file.unlink()
            else:
                final = onnx.name if name == judged.preferred else f"{onnx.stem}.{name}{onnx.suffix}"
                one.file.rename(folder / final)
    return judged, verdict


class _Made(NamedTuple):
    """A variant that can be run."""

    file: Path
    how: Mapping[str, Any]
    answers: Probabilities  # float32 [N, C] of the validation split


def _order(options: Export) -> list[str]:
    """fp32 first, which the others are made of."""
    return sorted(options.variants, key=lambda name: name != REFERENCE)


def _attempted(name: str, given: Given, folder: Path) -> _Made | Failed:
    """A graph that a variant's tools or kernels cannot take costs that variant and not the model."""
    file, reference = folder / f"{name}.onnx", folder / f"{REFERENCE}.onnx"
    if name == REFERENCE:
        with Console().status("translating the network into an ONNX graph"):
            export.write_onnx(given.deployed, file, given.options.opset, given.properties)
        return _Made(file, {}, _answers(name, file, given))
    try:
        with writable(file):
            how = given.makers[name](reference, file)
    except UserError:  # the user's or the machine's, and no matter of the graph
        raise
    except Exception as error:  # onnx, onnxruntime and their tools have no other base class
        file.unlink(missing_ok=True)
        return Failed(name, f"it could not be made: {type(error).__name__}: {line(error)}")
    try:
        survival.require(file)
        answers = _answers(name, file, given)
        numberless = int((~np.isfinite(answers)).any(axis=1).sum())
        reason = f"it gives no numbers on {numberless} of {len(answers)} images" if numberless else None
    except UserError as error:
        reason = error.what.replace(str(file), "it")  # whose name is a passing one
    if reason is None:
        return _Made(file, how, answers)
    file.unlink()
    return Failed(name, reason)


def _answers(name: str, file: Path, given: Given) -> Probabilities:
    """Raises UserError where the file cannot be run."""
    images, what = given.validation.images[:, 0], f"{name} on the validation split"
    return bench.in_batches(Predictor(file).predict, images, given.options.batch_size, what)


def _judged(given: Given, attempted: Mapping[str, _Made | Failed], reports: Path) -> Judged:
    """The verdict, in `reports` too."""
    options, image = given.options, parity.decode(given.reference.root, given.reference.test_rows[0])
    made = {name: one for name, one in attempted.items() if isinstance(one, _Made)}
    timings = bench.measure({name: one.file for name, one in made.items()}, image, options.latency_repeats)
    outcomes = {name: _outcome(given, one.answers) for name, one in made.items()}
    results: list[Result] = []
    for name, one in attempted.items():
        if isinstance(one, Failed):
            results.append(one)
        else:
            beside = paired.compare(outcomes[REFERENCE], outcomes[name], RESAMPLES, given.seed)
            results.append(Measured(name, one.file.stat().st_size, beside, timings[name], one.how))
    judged = variants.judge(results, options.prefer, options.max_loss)
    about = {"prefer": options.prefer, "max_loss": options.max_loss, "resamples": RESAMPLES, "timed_image": image.shape}
    variants.write(judged, about | {"seed": given.seed}, reports / "variants.json")
    variants_picture.write(judged, reports / "variants.png")
    return judged


def _outcome(given: Given, answers: Probabilities) -> Outcome:
    """As evaluate sees probabilities [N, C] of the validation split; what is no number is no class's."""
    labels, classes = given.validation.labels, given.validation.classes
    probabilities = np.nan_to_num(answers.astype(np.float64))
    thresholds = export.thresholds(given.properties)
    if thresholds is None:
        return Multiclass(labels, probabilities, probabilities, 1.0, classes)
    return Multilabel(labels, probabilities, probabilities, 1.0, classes, thresholds)


def _proved(given: Given, preferred: Path, answers: Probabilities) -> Parity:
    """Of the preferred variant, on the test split; fp32, where it is another, is first held against the network itself.

    A broken export could else hide behind what rounding to 8 bits is allowed to lose.

    Raises:
        UserError: where fp32 disagrees with the network.
    """
    if preferred.stem == REFERENCE:
        return parity.verify(preferred, given.reference)
    in_torch = latency.torch_engine(given.deployed, Predictor(preferred).device)
    images, size = given.validation.images[:, 0], given.options.batch_size
    stated = bench.in_batches(in_torch, images, size, "the network on the validation split")
    predictions = _outcome(given, stated).to_predictions(given.validation.paths)
    thresholds = export.thresholds(given.properties)
    reference = compare(answers[np.newaxis], predictions, given.options, thresholds)
    reference.require("validation")
    return replace(parity.verify(preferred, given.reference), reference_difference=reference.max_difference)

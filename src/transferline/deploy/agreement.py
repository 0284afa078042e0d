"""Whether an exported model answers as evaluate did, on images that both have seen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferline.artifacts import Predictions
from transferline.errors import UserError
from transferline.evaluation.bootstrap import headlines
from transferline.evaluation.outcome import Flags
from transferline.labelsets import join, names_of
from transferline.sections import REFERENCE, Export

Probabilities = npt.NDArray[np.float32]
Thresholds = npt.NDArray[np.float64]
_DIGITS = 9  # below float32's resolution of a probability
_SHOWN = 5
_NONE = "(no label)"


@dataclass(frozen=True)
class Difference:
    """An image on which the exported model and evaluate disagree."""

    path: str
    evaluate_class: str  # in multi-label data, the joined set
    evaluate_probability: float  # of evaluate's class; of the label most in doubt
    onnx_class: str
    onnx_probability: float  # of the exported model's class; of the label most in doubt
    difference: float  # the largest over the classes


@dataclass(frozen=True)
class Parity:
    """The verdict on one exported model; differences are the largest over images and classes.

    fp32 must give evaluate's probabilities. Another variant was judged on validation, and must be worth what evaluate
    reported: its figures on test may be lower than evaluate's by `max_loss` at most.

    Attributes:
        agreeing: images without a mismatch.
        tolerance: of a probability; None where probabilities may differ, and only another answer is a mismatch.
        accuracy, macro_f1: of the exported model, the lower ones of batch 1 and N; label sets count as a whole.
        mismatches: the worst first.
        ties: top-1 differs, but evaluate saw both classes as good as equal.
        reference_difference: of fp32 from the network on the validation split, where the variant is another.
    """

    passed: bool
    variant: str
    images: int
    agreeing: int
    max_difference: float
    max_difference_batch_1: float
    max_difference_batch_n: float
    tolerance: float | None
    accuracy: float
    macro_f1: float
    evaluate_accuracy: float
    evaluate_macro_f1: float
    max_loss: float
    mismatches: list[Difference]
    ties: list[Difference]
    reference_difference: float | None = None

    def summary(self) -> str:
        """What was found, in one line."""
        if self.tolerance is not None:
            return f"{self.agreeing} of {self.images} test images agree (largest difference {self.max_difference:.0e})"
        return (
            f"{self.variant} answers as evaluate on {self.agreeing} of {self.images} test images (probabilities within "
            f"{self.max_difference:.2g}; {self._figures()})"
        )

    def require(self, images: str = "test") -> None:
        """Raises UserError, with the worst of these `images`, where the models disagree."""
        if self.passed:
            return
        worst = "".join(
            f"\n    {entry.path}: evaluate {entry.evaluate_class or _NONE} {entry.evaluate_probability:.4f}, "
            f"onnx {entry.onnx_class or _NONE} {entry.onnx_probability:.4f}, difference {entry.difference:.2g}"
            for entry in self.mismatches[:_SHOWN]
        )
        differ = f"disagrees with evaluate on {len(self.mismatches)} of {self.images} {images} images"
        kept = "no model was kept; all of them are in reports/export/parity.json. "
        if self.tolerance is None:
            raise UserError(
                f"the {self.variant} ONNX model is not worth what evaluate reported, over the {self.max_loss:g} of "
                f"export.max_loss: {self._figures()}; it {differ}:{worst}",
                f"{kept}Set export.prefer to accurate, which takes fp32, or raise export.max_loss",
            )
        raise UserError(
            f"the ONNX model {differ}:{worst}",
            f"{kept}If evaluate is out of date, run 'dvc repro'; if the differences are rounding, "
            "raise export.tolerance",
        )

    def _figures(self) -> str:
        return (
            f"accuracy {self.accuracy:.4f} and evaluate's {self.evaluate_accuracy:.4f}, "
            f"macro-F1 {self.macro_f1:.4f} and {self.evaluate_macro_f1:.4f}"
        )


def compare(
    replayed: Probabilities,
    predictions: Predictions,
    options: Export,
    thresholds: Thresholds | None = None,
    variant: str = REFERENCE,
) -> Parity:
    """Hold probabilities float32 [B, N, C] of the exported model, at the B batch sizes tried, against evaluate's.

    An image agrees where, alone and in a batch, no probability is off by more than the tolerance and
    the class is evaluate's; another class is a tie where evaluate gave it the same probability but for
    `tie`. With `thresholds` float64 [C], the set of labels must be evaluate's; another set is a tie where
    evaluate's probability of each label that differs lies within `tie` of its threshold. Of a `variant` other
    than fp32 only the answers must agree, and not on every image: see Parity.
    """
    tolerance = options.tolerance if variant == REFERENCE else None
    replayed = np.nan_to_num(replayed, nan=-2.0)  # further off than any probability, where NaN would pass for equal
    judge = _one_class(predictions, replayed) if thresholds is None else _label_sets(predictions, replayed, thresholds)
    difference = np.abs(replayed - predictions.probabilities).max(axis=2)
    bad = (difference > (1.0 if tolerance is None else tolerance)) | (judge.other & (judge.gap > options.tie))
    worse = (difference + judge.other + bad).argmax(axis=0)  # of batch 1 and N, the one to show
    ranked = sorted(range(len(predictions.paths)), key=lambda i: (-difference[:, i].max(), predictions.paths[i]))
    entries = {i: judge.describe(int(worse[i]), i, _rounded(difference[:, i].max())) for i in ranked}
    labels = _flags(predictions.labels, predictions.classes, multilabel=thresholds is not None)
    found, stated = (_figures(labels, answers) for answers in (judge.given, judge.stated[np.newaxis]))
    lost = round(max(before - after for before, after in zip(stated, found, strict=True)), _DIGITS)
    sound = not bad.any() if tolerance is not None else lost <= options.max_loss and difference.max() <= 1
    return Parity(
        passed=bool(sound),
        variant=variant,
        images=len(entries),
        agreeing=len(entries) - int(bad.any(axis=0).sum()),
        max_difference=_rounded(difference.max()),
        max_difference_batch_1=_rounded(difference[0].max()),
        max_difference_batch_n=_rounded(difference[-1].max()),
        tolerance=tolerance,
        accuracy=found[0],
        macro_f1=found[1],
        evaluate_accuracy=stated[0],
        evaluate_macro_f1=stated[1],
        max_loss=options.max_loss,
        mismatches=[entry for i, entry in entries.items() if bad[:, i].any()],
        ties=[entry for i, entry in entries.items() if judge.other[:, i].any() and not bad[:, i].any()],
    )


class _Judge(NamedTuple):
    """What the two models answer."""

    stated: Flags  # [N, C], the classes that evaluate gave
    given: Flags  # [B, N, C], those that the exported model gives
    gap: npt.NDArray[np.floating]  # [B, N], how far evaluate was from the other answer
    describe: Callable[[int, int, float], Difference]  # of a batch size, an image and the largest difference

    @property
    def other(self) -> Flags:
        """[B, N], whether the answers differ."""
        return np.asarray((self.given != self.stated).any(axis=2))


def _one_class(predictions: Predictions, replayed: Probabilities) -> _Judge:
    every, stated = np.arange(len(predictions.paths)), predictions.probabilities
    expected = np.array([predictions.classes.index(name) for name in predictions.predicted])
    found = replayed.argmax(axis=2)

    def describe(batch: int, image: int, difference: float) -> Difference:
        wanted, given = expected[image], found[batch, image]
        return Difference(
            path=predictions.paths[image],
            evaluate_class=predictions.classes[wanted],
            evaluate_probability=_rounded(stated[image, wanted]),
            onnx_class=predictions.classes[given],
            onnx_probability=_rounded(replayed[batch, image, given]),
            difference=difference,
        )

    one_hot = np.eye(len(predictions.classes), dtype=np.bool_)
    gap = stated[every, expected] - stated[every, found]
    return _Judge(one_hot[expected], one_hot[found], gap, describe)


def _label_sets(predictions: Predictions, replayed: Probabilities, thresholds: Thresholds) -> _Judge:
    """The probabilities described are those of the label that is most in doubt: first of those that differ."""
    stated, classes = predictions.probabilities, predictions.classes
    expected = _flags(predictions.predicted, classes, multilabel=True)
    found = replayed >= thresholds
    other = found != expected
    gap = np.where(other, np.abs(stated - thresholds), 0.0).max(axis=2)

    def describe(batch: int, image: int, difference: float) -> Difference:
        worst = int((np.abs(replayed[batch, image] - stated[image]) + other[batch, image]).argmax())
        given = join(classes[index] for index in np.flatnonzero(found[batch, image]))
        return Difference(
            path=predictions.paths[image],
            evaluate_class=predictions.predicted[image],
            evaluate_probability=_rounded(stated[image, worst]),
            onnx_class=given,
            onnx_probability=_rounded(replayed[batch, image, worst]),
            difference=difference,
        )

    return _Judge(expected, found, gap, describe)


def _flags(texts: list[str], classes: list[str], *, multilabel: bool) -> Flags:
    """bool [N, C] of class names, or of joined sets of them."""
    named = [set(names_of(text, multilabel)) for text in texts]
    return np.array([[name in given for name in classes] for given in named], dtype=np.bool_)


def _figures(labels: Flags, given: Flags) -> tuple[float, float]:
    """The lowest accuracy and macro-F1 of answers bool [B, N, C] to the truth [N, C]."""
    every = np.ones((1, len(labels)))
    found = [headlines(every, labels, answers) for answers in given]
    accuracy, macro_f1 = (min(float(one[name][0]) for one in found) for name in ("accuracy", "macro_f1"))
    return round(accuracy, _DIGITS), round(macro_f1, _DIGITS)


def _rounded(value: np.floating) -> float:
    return round(float(value), _DIGITS)

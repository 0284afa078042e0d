"""What is logged after each epoch, and which way is better."""

from typing import Literal

from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
    MultilabelAccuracy,
    MultilabelF1Score,
    MultilabelPrecision,
    MultilabelRecall,
    MultilabelSpecificity,
)

Mode = Literal["min", "max"]
# A monitor's name in params.yaml -> the name that it is logged under, and its mode, in the order of history.csv.
MONITORS: dict[str, tuple[str, Mode]] = {
    "train_loss": ("train_loss", "min"),
    "loss": ("val_loss", "min"),
    "accuracy": ("val_accuracy", "max"),
    "macro_f1": ("val_macro_f1", "max"),
    "balanced_accuracy": ("val_balanced_accuracy", "max"),
    "macro_precision": ("val_macro_precision", "max"),
    "macro_recall": ("val_macro_recall", "max"),
    "train_accuracy": ("train_accuracy", "max"),
}
LOGGED = tuple(name for name, _ in MONITORS.values())


def make_scores(classes: int, multilabel: bool) -> MetricCollection:
    """Of validation, under the names of MONITORS. Update it with logits [B, C] and labels int64 [B] or [B, C].

    Where images have several labels, a class is predicted from a probability of 0.5 on; accuracy is the share of right
    answers over all images and classes, and a class's balanced accuracy the mean of its recall and specificity.
    """
    if multilabel:
        recall, specificity = MultilabelRecall(classes), MultilabelSpecificity(classes)
        made: dict[str, Metric | MetricCollection] = {
            "val_accuracy": MultilabelAccuracy(classes, average="micro"),
            "val_macro_f1": MultilabelF1Score(classes),
            "val_balanced_accuracy": (recall + specificity) / 2,
            "val_macro_precision": MultilabelPrecision(classes),
            "val_macro_recall": MultilabelRecall(classes),
        }
    else:
        made = {
            "val_accuracy": MulticlassAccuracy(classes, average="micro"),
            "val_macro_f1": MulticlassF1Score(classes, average="macro"),
            "val_balanced_accuracy": MulticlassAccuracy(classes, average="macro"),
            "val_macro_precision": MulticlassPrecision(classes, average="macro"),
            "val_macro_recall": MulticlassRecall(classes, average="macro"),
        }
    return MetricCollection(made)

"""A step: penalties, and what is logged after an epoch."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from transferline.artifacts import ModelCard
from transferline.fitting import Fit
from transferline.model import classifier
from transferline.training.module import Trainee
from transferline.training.scores import LOGGED, MONITORS, make_scores

CARD = ModelCard("mobilenet_v3_small", ["a", "b", "c"], 32, "squash", [0.5] * 3, [0.5] * 3, dropout=0.0)


@pytest.fixture
def net() -> classifier.Classifier:
    return classifier.build(CARD, "none", seed=0)


def test_penalties_count_trained_weights_but_no_biases(net: classifier.Classifier) -> None:
    net.freeze(len(net.blocks))
    weight = net.head.linear.weight.detach()
    for config, expected in (
        (Fit(l1=0.1), 0.1 * weight.abs().sum()),
        (Fit(l2=0.1), 0.05 * weight.square().sum()),
        (Fit(), torch.tensor(0.0)),
    ):
        penalty = torch.as_tensor(Trainee(net, config, 0.1, None).penalty())
        torch.testing.assert_close(penalty.detach(), expected)


def test_a_step_mixes_images_and_targets_alike(net: classifier.Classifier) -> None:
    """Through a net that gives three pixels of each image, the mixed targets can be read off the answers."""
    module = Trainee(net, Fit(mixup=1.0), 0.1, None, seed=3)
    module.net = torch.nn.Flatten()
    images = torch.zeros(6, 1, 1, 3, dtype=torch.uint8)
    labels = torch.arange(6) % 3
    images[torch.arange(6), 0, 0, labels] = 1
    answers, targets = module.answers(((images,), labels, torch.arange(6)), 0, 0)
    torch.testing.assert_close(answers, targets)
    assert not torch.equal(targets, torch.nn.functional.one_hot(labels).float())


def scored(logits: torch.Tensor, labels: torch.Tensor, multilabel: bool) -> dict[str, Any]:
    scores = make_scores(3, multilabel)
    for part in (slice(0, 20), slice(20, 60)):
        scores.update(logits[part], labels[part])
    return {name: float(value) for name, value in scores.compute().items()}


def test_scores_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(60, 3, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    actual, predicted = labels.numpy(), logits.argmax(1).numpy()
    assert scored(logits, labels, multilabel=False) == pytest.approx(
        {
            "val_accuracy": metrics.accuracy_score(actual, predicted),
            "val_balanced_accuracy": metrics.balanced_accuracy_score(actual, predicted),
            "val_macro_f1": metrics.f1_score(actual, predicted, average="macro"),
            "val_macro_precision": metrics.precision_score(actual, predicted, average="macro"),
            "val_macro_recall": metrics.recall_score(actual, predicted, average="macro"),
        }
    )


def test_scores_of_several_labels_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(60, 3, generator=generator), torch.randint(0, 2, (60, 3), generator=generator)
    actual, predicted = labels.numpy(), (logits > 0).long().numpy()
    balanced = [metrics.balanced_accuracy_score(actual[:, k], predicted[:, k]) for k in range(3)]
    assert scored(logits, labels, multilabel=True) == pytest.approx(
        {
            "val_accuracy": (actual == predicted).mean(),
            "val_balanced_accuracy": np.mean(balanced),
            "val_macro_f1": metrics.f1_score(actual, predicted, average="macro"),
            "val_macro_precision": metrics.precision_score(actual, predicted, average="macro"),
            "val_macro_recall": metrics.recall_score(actual, predicted, average="macro"),
        }
    )


def test_every_monitor_is_logged_under_a_name_of_its_own() -> None:
    assert len(set(LOGGED)) == len(MONITORS)
    assert {mode for name, (_, mode) in MONITORS.items() if "loss" in name} == {"min"}
    assert {mode for name, (_, mode) in MONITORS.items() if "loss" not in name} == {"max"}

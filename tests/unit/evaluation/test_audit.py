"""The policy audit: a drop that is large and certain is flagged, and a probe that knows nothing judges nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from transferline import policy
from transferline.data.evidence import Evidence, Transformed
from transferline.errors import UserError
from transferline.evaluation import audit, audit_report
from transferline.sections import Augment

POLICY = TypeAdapter(tuple[policy.Transform, ...]).validate_python(
    ({"name": "quarter_turns"}, {"name": "brightness", "factor": [1.2, 1.2]})
)


def right(share: float, images: int, *, first: int = 0) -> np.ndarray:
    """Scores of images of which a share is answered rightly, from the image `first` on."""
    return np.roll((np.arange(images) < round(share * images)).astype(np.float64), first)


def judged(clean: np.ndarray, *transformed: np.ndarray, chance: float = 0.5, transforms: tuple = POLICY) -> audit.Audit:
    return audit.verdicts(
        clean, transformed, transforms[: len(transformed)], chance=chance, backbone="net", train_images=400, seed=0
    )


def test_a_drop_that_is_large_and_certain_is_flagged_and_a_small_one_is_not() -> None:
    found = judged(right(0.76, 300), right(0.45, 300), right(0.69, 300))
    assert [finding.flagged for finding in found.findings] == [True, False]
    assert found.doubt is None
    assert [finding.drop for finding in found.findings] == [0.31, 0.07]
    low, high = found.findings[0].interval
    assert 0.24 < low < 0.31 < high < 0.38


def test_a_large_drop_on_few_images_is_not_certain() -> None:
    few, many = (judged(right(0.8, images), right(0.57, images, first=images // 3)) for images in (30, 600))
    assert few.findings[0].drop > audit.LARGE
    assert (few.doubt, few.findings[0].flagged) == (None, False)
    assert many.findings[0].flagged


def test_where_much_is_known_a_drop_must_be_a_third_of_it() -> None:
    natural, broken = right(0.75, 600), right(0.45, 600)
    found = judged(right(0.95, 600), natural, broken, chance=0.1)
    assert found.threshold == pytest.approx(0.85 / 3, abs=1e-4)
    assert [finding.flagged for finding in found.findings] == [False, True]


@pytest.mark.parametrize(
    ("clean", "chance", "doubt"),
    [
        (right(0.52, 300), 0.5, "right on 52% of clean validation images, too little above the 50% of chance"),
        (right(0.62, 300), 0.5, "too little above the 50% of chance"),
        (right(0.70, 30), 0.54, "too little above the 54% of chance"),
        (right(1.0, 29), 0.5, "29 validation images are too few, and 30 the fewest"),
    ],
)
def test_a_probe_that_knows_too_little_neither_passes_nor_flags(clean: np.ndarray, chance: float, doubt: str) -> None:
    found = judged(clean, np.zeros_like(clean), chance=chance)
    assert found.doubt is not None
    assert doubt in found.doubt
    assert found.flagged == []
    assert audit.lines(found) == [f"the policy audit cannot judge: {found.doubt}"]
    found.enforce("refuse")


def test_transforms_of_one_name_are_told_apart() -> None:
    twice = TypeAdapter(tuple[policy.Transform, ...]).validate_python(({"name": "blur"}, {"name": "blur"}))
    found = judged(right(0.8, 60), right(0.8, 60), right(0.7, 60), transforms=twice)
    assert [finding.name for finding in found.findings] == ["blur", "blur_2"]
    assert set(found.metrics()) == {"audit_accuracy", "audit_flagged", "audit_drop_blur", "audit_drop_blur_2"}


def test_refuse_names_transform_figures_and_remedy_and_warn_goes_on() -> None:
    found = judged(right(0.76, 300), right(0.45, 300), right(0.69, 300))
    found.enforce("warn")
    with pytest.raises(UserError) as caught:
        found.enforce("refuse")
    assert "augment.policy: labels do not survive quarter_turns (accuracy 0.76 -> 0.45, a drop of 0.31" in str(
        caught.value
    )
    assert "set enabled: false at quarter_turns; or augment.audit: warn" in caught.value.fix
    told, summary = audit.lines(found)
    assert told.startswith("quarter_turns: labels do not survive it (accuracy 0.76 -> 0.45")
    assert told.endswith("set enabled: false at quarter_turns")
    assert "1 of 2 transforms flagged" in summary


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        ({"name": "rotation"}, "narrow degrees of rotation, or set enabled: false at rotation"),
        ({"name": "vertical_flip"}, "set enabled: false at vertical_flip"),
        (
            {"name": "trivial_augment"},
            "exclude operations of trivial_augment, as exclude: [rotate, shear_x, shear_y]",
        ),
    ],
)
def test_the_remedy_fits_the_transform(entry: dict[str, str], remedy: str) -> None:
    transforms = (TypeAdapter(policy.Transform).validate_python(entry),)
    assert judged(right(0.9, 100), right(0.2, 100), transforms=transforms).findings[0].remedy == remedy


@pytest.mark.parametrize(
    ("keys", "weights", "reason"),
    [
        ({"audit": "off"}, "pretrained", "augment.audit is off"),
        ({"views": 0}, "pretrained", "augment.views is 0, so that no view is made"),
        ({"policy": POLICY[:1]}, "none", "model.weights is none, and features of random weights tell nothing"),
        ({"policy": []}, "pretrained", "no transform is switched on"),
        ({"policy": [POLICY[0].model_copy(update={"enabled": False})]}, "pretrained", "no transform is switched on"),
        ({"policy": POLICY, "views": 0, "online": True}, "pretrained", None),
    ],
)
def test_where_there_is_nothing_to_audit_the_reason_is_said(
    keys: dict[str, object], weights: str, reason: str | None
) -> None:
    assert audit.skipped(Augment.model_validate({"policy": POLICY} | keys), weights) == reason


def test_chance_is_the_largest_class_and_of_several_labels_one_half() -> None:
    assert audit.by_chance(np.array([0, 0, 0, 1])) == 0.75
    labels = np.array([[1, 0], [0, 0], [0, 0], [0, 0]])
    assert audit.by_chance(labels) == 0.5
    assert audit.scores(np.zeros_like(labels), labels).mean() == pytest.approx(0.5)
    assert audit.scores(labels, labels).mean() == pytest.approx(1.0)
    assert audit.scores(np.ones_like(labels)[:, 1:], labels[:, 1:]).mean() == 0.0


# --- from features to files -----------------------------------------------------------------


def evidence(*, multilabel: bool = False) -> Evidence:
    """Features of two classes; the first transform swaps them, the second does next to nothing."""
    rng = np.random.default_rng(0)
    labels = np.arange(400, dtype=np.int64) % 2
    features = (np.eye(2)[labels] @ np.eye(2, 16) * 3 + rng.normal(size=(400, 16))).astype(np.float32)
    swapped, noisy = features[200:, [1, 0, *range(2, 16)]], features[200:] + 0.01
    given = np.stack([labels, 1 - labels], axis=1) if multilabel else labels
    picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    transformed = [Transformed(one, seen, picture) for one, seen in zip(POLICY, (swapped, noisy), strict=True)]
    return Evidence("net", features[:200], given[:200], features[200:], given[200:], 2, picture, transformed)


@pytest.mark.parametrize("multilabel", [False, True], ids=["classes", "labels"])
def test_a_probe_of_clean_features_finds_the_transform_that_swaps_classes(multilabel: bool) -> None:
    found = audit.judge(evidence(multilabel=multilabel), seed=0)
    assert [finding.flagged for finding in found.findings] == [True, False]
    assert found.accuracy > 0.9
    assert found.findings[0].accuracy < 0.1
    assert (found.train_images, found.images, found.chance) == (200, 200, 0.5)
    assert found == audit.judge(evidence(multilabel=multilabel), seed=0)


def test_an_audit_leaves_its_figures_a_picture_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def look(transforms: list[policy.Transform]) -> Evidence:
        asked.extend(transform.name for transform in transforms)
        return evidence()

    augment = Augment(policy=(*POLICY, POLICY[0].model_copy(update={"p": 0.0})))
    found = audit_report.run(augment, "pretrained", look, tmp_path, 0)
    assert found is not None
    assert asked == ["quarter_turns", "brightness"]
    kept = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert [(entry["name"], entry["flagged"]) for entry in kept["findings"]] == [
        ("quarter_turns", True),
        ("brightness", False),
    ]
    assert kept["findings"][1]["settings"]["factor"] == [1.2, 1.2]
    assert {"rule", "accuracy", "interval", "chance", "backbone", "images", "train_images", "doubt"} <= set(kept)
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert [line.split(":")[1] for line in capsys.readouterr().out.splitlines()] == [" quarter_turns", " policy audit"]


def test_the_picture_shows_what_is_flagged_in_red() -> None:
    made = evidence()
    figure = audit_report.draw(audit.judge(made, seed=0), made)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert [title.split("   ")[0] for title in titles] == ["quarter turns", "brightness"]
    assert ["flagged" in title for title in titles] == [True, False]
    bars = [axes.patches[0].get_facecolor() for axes in figure.axes if axes.patches]
    assert bars[0] != bars[1]


def test_where_nothing_is_audited_no_image_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def look(_: object) -> Evidence:
        raise AssertionError("looked")

    assert audit_report.run(Augment(policy=POLICY, audit="off"), "pretrained", look, tmp_path, 0) is None
    assert capsys.readouterr().out == "augment: the policy is not audited: augment.audit is off\n"
    assert list(tmp_path.iterdir()) == []

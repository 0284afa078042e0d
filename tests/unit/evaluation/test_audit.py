"""The policy audit: a drop that is large and certain is flagged, and a probe that knows nothing judges nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from transferline import policy
from transferline.augmentation import BROAD, SAFE
from transferline.data.evidence import Evidence, Transformed
from transferline.errors import UserError
from transferline.evaluation import audit, audit_report, held_out
from transferline.evaluation.held_out import Answers
from transferline.sections import Augment

POLICY = TypeAdapter(tuple[policy.Transform, ...]).validate_python(
    ({"name": "quarter_turns"}, {"name": "brightness", "factor": [1.2, 1.2]})
)


def sure(probability: float, images: int) -> Answers:
    """Answers whose probabilities of the truth lie around `probability`, right where they are above one half."""
    spread = np.linspace(-0.1, 0.1, images)[np.random.default_rng(0).permutation(images)]
    return Answers((probability + spread > 0.5).astype(np.float64), probability + spread)


def judged(
    clean: Answers, *transformed: Answers, classes: int = 2, transforms: tuple = POLICY, automatic: bool = False
) -> audit.Audit:
    images = len(clean.right)
    return audit.verdicts(
        clean,
        transformed,
        transforms[: len(transformed)],
        labels=np.arange(images, dtype=np.int64) % classes,
        backbone="net",
        clean_images=400,
        groups=images,
        seed=0,
        automatic=automatic,
    )


def test_a_transform_that_costs_much_is_flagged_and_one_that_costs_little_is_not() -> None:
    found = judged(sure(0.9, 100), sure(0.6, 100), sure(0.88, 100))
    assert [finding.flagged for finding in found.findings] == [True, False]
    assert found.doubt is None
    assert [finding.lost for finding in found.findings] == pytest.approx([0.75, 0.05], abs=1e-3)
    low, high = found.findings[0].interval
    assert low <= found.findings[0].lost <= high


def test_a_cost_is_a_share_of_what_the_probe_knows_beyond_guessing() -> None:
    much, little = (judged(sure(0.9, 100), sure(0.8, 100), classes=classes) for classes in (10, 2))
    assert (much.findings[0].flagged, little.findings[0].flagged) == (False, True)


def test_an_uncertain_cost_leaves_a_transform_out_of_auto_and_flags_none_of_a_list() -> None:
    """A user chose what is listed; to leave out a harmless transform of auto costs little."""
    clean = sure(0.9, 100)
    lost = np.where(np.arange(100) < 14, 0.8, 0.0)
    uncertain = Answers(clean.right, clean.sure - lost)
    listed, automatic = judged(clean, uncertain), judged(clean, uncertain, automatic=True)
    assert listed.findings[0].interval[0] < audit.SHARE < listed.findings[0].lost
    assert (listed.findings[0].flagged, automatic.findings[0].flagged) == (False, True)


@pytest.mark.parametrize(
    ("accuracy", "images", "doubt"),
    [
        (0.5, 300, "right on 50% of clean images, too little above the 50% of chance"),
        (0.58, 300, "too little above the 50% of chance"),
        (0.62, 34, "too little above the 50% of chance"),
        (1.0, 29, "29 images that are no copies of one another are too few, and 30 the fewest"),
    ],
)
@pytest.mark.parametrize("automatic", [False, True])
def test_a_probe_that_knows_too_little_neither_passes_nor_flags(
    accuracy: float, images: int, doubt: str, automatic: bool
) -> None:
    right = (np.arange(images) < accuracy * images).astype(np.float64)
    found = judged(Answers(right, right), Answers(0 * right, 0 * right), automatic=automatic)
    assert found.doubt is not None
    assert doubt in found.doubt
    assert found.flagged == []
    assert audit.lines(found) == [f"the policy audit cannot judge: {found.doubt}"]
    assert audit_report.choose(found) == SAFE
    found.enforce("refuse")


def test_transforms_of_one_name_are_told_apart() -> None:
    twice = TypeAdapter(tuple[policy.Transform, ...]).validate_python(({"name": "blur"}, {"name": "blur"}))
    found = judged(sure(0.8, 60), sure(0.8, 60), sure(0.7, 60), transforms=twice)
    assert [finding.name for finding in found.findings] == ["blur", "blur_2"]
    assert set(found.metrics()) == {"audit_accuracy", "audit_flagged", "audit_lost_blur", "audit_lost_blur_2"}


def test_refuse_names_transform_figures_and_remedy_and_warn_goes_on() -> None:
    found = judged(sure(0.9, 100), sure(0.3, 100), sure(0.9, 100))
    found.enforce("warn")
    with pytest.raises(UserError) as caught:
        found.enforce("refuse")
    assert "augment.policy: labels do not survive quarter_turns (accuracy 1.00 -> 0.00, 150% of" in caught.value.what
    assert "set enabled: false at quarter_turns; or augment.audit: warn" in caught.value.fix
    told, summary = audit.lines(found)
    assert told.startswith("quarter_turns: labels do not survive it (accuracy 1.00 -> 0.00")
    assert told.endswith("set enabled: false at quarter_turns")
    assert "1 of 2 transforms flagged" in summary


@pytest.mark.parametrize(("turned", "automatic", "kept"), [(0.3, True, False), (0.9, True, True), (0.3, False, True)])
def test_auto_leaves_out_mirrored_images_where_they_must_stand_upright(
    turned: float, automatic: bool, kept: bool
) -> None:
    """A backbone that was trained with them does not see them, whatever they do to the labels."""
    named = {transform.name: transform for transform in BROAD}
    policy = tuple(named[name] for name in ("horizontal_flip", "vertical_flip", "quarter_turns"))
    costs = [sure(0.9, 100), sure(0.3, 100), sure(turned, 100)]
    found = judged(sure(0.9, 100), *costs, transforms=policy, automatic=automatic)
    assert [one.flagged for one in found.findings] == [not kept, True, turned == 0.3]


def test_nothing_of_auto_is_refused_since_it_is_left_out() -> None:
    found = judged(sure(0.9, 100), sure(0.3, 100), sure(0.9, 100), automatic=True)
    found.enforce("refuse")
    (line,) = audit.lines(found)
    assert line.startswith("policy auto leaves out quarter_turns (accuracy 1.00 -> 0.00)")
    kept = audit_report.choose(found)
    assert [one for one in BROAD if one not in kept] == [one for one in BROAD if one.name == "quarter_turns"]
    assert audit_report.caption(kept, found).endswith("; left out by the audit: quarter turns")


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
    assert judged(sure(0.9, 100), sure(0.2, 100), transforms=transforms).findings[0].remedy == remedy


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
    assert held_out.by_chance(np.array([0, 0, 0, 1])) == (0.75, 0.625)
    labels = np.array([[1, 0], [0, 0], [0, 0], [0, 0]])
    assert held_out.by_chance(labels) == (0.5, 0.5)
    for given, expected in ((np.zeros((4, 2)), 0.5), (labels.astype(float), 1.0)):
        answers = held_out.answers(given, labels)
        assert answers.right.mean() == pytest.approx(expected)
        assert answers.sure.mean() == pytest.approx(expected)
    assert held_out.answers(np.ones((4, 1)), labels[:, 1:]).right.mean() == 0.0


# --- from features to files -----------------------------------------------------------------


def evidence(images: int = 200, *, multilabel: bool = False) -> Evidence:
    """Features of two classes; the first transform swaps them, the second does next to nothing."""
    rng = np.random.default_rng(0)
    labels = np.arange(images, dtype=np.int64) % 2
    features = (np.eye(2)[labels] @ np.eye(2, 16) * 3 + rng.normal(size=(images, 16))).astype(np.float32)
    rows = np.arange(0, images, 3)
    swapped, noisy = features[rows][:, [1, 0, *range(2, 16)]], features[rows] + np.float32(0.01)
    given = np.stack([labels, 1 - labels], axis=1) if multilabel else labels
    picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    transformed = [Transformed(one, seen, picture) for one, seen in zip(POLICY, (swapped, noisy), strict=True)]
    return Evidence("net", features, given, np.arange(images), rows, 2, picture, transformed)


@pytest.mark.parametrize("multilabel", [False, True], ids=["classes", "labels"])
def test_a_probe_of_clean_features_finds_the_transform_that_swaps_classes(multilabel: bool) -> None:
    found = audit.judge(evidence(multilabel=multilabel), seed=0)
    assert [finding.flagged for finding in found.findings] == [True, False]
    assert found.accuracy > 0.9
    assert found.findings[0].accuracy < 0.1
    assert (found.clean_images, found.images) == (200, 67)
    assert found == audit.judge(evidence(multilabel=multilabel), seed=0)


def test_an_audit_leaves_its_figures_a_picture_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def look(transforms: list[policy.Transform]) -> Evidence:
        asked.extend(transform.name for transform in transforms)
        return evidence()

    augment = Augment(policy=(*POLICY, POLICY[0].model_copy(update={"p": 0.0})))
    kept_policy, found = audit_report.run(augment, "pretrained", look, tmp_path, images=700, seed=0)
    assert kept_policy == augment.policy, "a list is used as given"
    assert found is not None
    assert asked == ["quarter_turns", "brightness"]
    kept = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert [(entry["name"], entry["flagged"]) for entry in kept["findings"]] == [
        ("quarter_turns", True),
        ("brightness", False),
    ]
    assert kept["findings"][1]["settings"]["factor"] == [1.2, 1.2]
    assert {"rule", "accuracy", "interval", "chance", "backbone", "images", "clean_images", "doubt", "policy"} <= set(
        kept
    )
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

    listed = Augment(policy=POLICY, audit="off")
    assert audit_report.run(listed, "pretrained", look, tmp_path, images=700, seed=0) == (POLICY, None)
    assert capsys.readouterr().out == "augment: the policy is not audited: augment.audit is off\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "weights", "reason"),
    [
        ({"audit": "off"}, "pretrained", "augment.audit is off"),
        ({}, "none", "model.weights is none, and features of random weights tell nothing"),
    ],
)
def test_auto_without_an_audit_is_the_safe_list_and_a_line_says_so(
    keys: dict[str, object], weights: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(_: object) -> Evidence:
        raise AssertionError("looked")

    assert audit_report.run(Augment.model_validate(keys), weights, look, tmp_path, images=700, seed=0) == (SAFE, None)
    many, _ = audit_report.run(Augment.model_validate(keys), weights, look, tmp_path / "many", images=20_000, seed=0)
    assert [one.p for one in many] == [0.25 * one.p for one in SAFE]
    why, which, *_ = capsys.readouterr().out.splitlines()
    assert why == f"augment: the policy is not audited: {reason}"
    assert which.startswith("augment: policy auto: random resized crop, shift, brightness, contrast, which suit any")


@pytest.mark.parametrize(("images", "left_out"), [(200, {"horizontal_flip"}), (60, None)])
def test_auto_asks_about_the_broad_list_and_keeps_what_the_audit_leaves(
    images: int, left_out: set[str] | None, tmp_path: Path
) -> None:
    """On 60 images, of which 20 are transformed, nothing can be judged."""

    def look(transforms: list[policy.Transform]) -> Evidence:
        assert tuple(transforms) == BROAD
        made = evidence(images)
        swapped, noisy = made.transformed
        seen = [replace(swapped if one.name == "horizontal_flip" else noisy, transform=one) for one in transforms]
        return replace(made, transformed=seen)

    kept, found = audit_report.run(Augment(), "pretrained", look, tmp_path, images=700, seed=0)
    assert kept == (SAFE if left_out is None else tuple(one for one in BROAD if one.name not in left_out))
    told = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in told["policy"]] == [one.name for one in kept]
    assert told["automatic"]
    assert (found is None or found.doubt is None) == (left_out is not None)

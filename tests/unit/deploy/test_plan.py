"""The plan counts what the line would do, and warns of what will go wrong."""

from pathlib import Path

import pytest

from transferline import config
from transferline.artifacts import SplitName
from transferline.data.sources import Layout, SourceFile
from transferline.deploy import plan
from transferline.errors import UserError
from transferline.model import backbones

BACKBONE = backbones.spec("resnet18")
SPLITS: dict[SplitName, int] = {"train": 100, "val": 20, "test": 30}


def _params(tmp_path: Path, text: str = "") -> config.Params:
    (tmp_path / "params.yaml").write_text(text)
    return config.load(path=tmp_path / "params.yaml")


def _layout(own_split: tuple[str, ...] = (), strays: int = 0, **classes: int) -> Layout:
    """`classes` files per class, those of a split of the user's own dealt out in turns."""
    files = [
        SourceFile(f"{label}/{index}.png", label, own_split[index % len(own_split)] if own_split else None)
        for label, count in classes.items()
        for index in range(count)
    ]
    return Layout(Path("data"), files, [f"{i}.txt" for i in range(strays)], classes, own_split, 12_345)


def test_split_follows_the_shares(tmp_path: Path) -> None:
    params = _params(tmp_path, "data: {split: {train: 0.6, val: 0.3, test: 0.1}}")
    assert plan.split_counts(params, _layout(a=50, b=50)) == {"train": 60, "val": 30, "test": 10}


def test_own_split_is_kept_and_val_is_taken_out_of_train_where_it_is_missing(tmp_path: Path) -> None:
    params = _params(tmp_path)
    whole = _layout(("train", "val", "test"), a=30, b=30)
    assert plan.split_counts(params, whole) == {"train": 20, "val": 20, "test": 20}
    assert plan.split_counts(params, _layout(("train", "test"), a=100, b=100)) == {"train": 82, "val": 18, "test": 100}


def test_arrays_hold_views_of_the_training_images_only() -> None:
    assert plan.array_size({"train": 10, "val": 2, "test": 3}, views=2, side=4) == (10 * 3 + 2 + 3) * 4 * 4 * 3


def test_work_counts_images_epochs_and_trials(tmp_path: Path) -> None:
    once = 100 * 5 + 20  # the clean view and, by default, four of so few images
    found = plan.work(_params(tmp_path, "tune: {trials: 5}\nfinetune: {epochs: 2}"), SPLITS)
    assert [(work.stage, work.forward, work.trained) for work in found] == [
        ("tune", once, 0),
        ("tune", 0, 5 * 2 * 100),
        ("finetune", 4 * 20, 2 * (100 + 20)),  # what was chosen, once more on train and validation
        ("evaluate", 20 + 2 * 30, 0),
        ("export", 60, 0),
    ]


def test_without_trials_finetune_trains_on_train_alone(tmp_path: Path) -> None:
    found = plan.work(_params(tmp_path, "tune: {trials: 0}\nfinetune: {epochs: 2}"), SPLITS)
    assert [(work.stage, work.trained) for work in found if work.stage in ("tune", "finetune")] == [
        ("tune", 0),
        ("finetune", 200),
    ]


def test_by_rule_the_work_of_all_trials_grows_with_the_images(tmp_path: Path) -> None:
    def trained(images: int) -> int:
        found = plan.work(_params(tmp_path), {"train": images, "val": images // 5, "test": images // 5})
        return next(work.trained for work in found if work.stage == "tune" and work.trained)

    assert trained(20) == trained(200)  # few images get as much as a somewhat larger set
    assert trained(20_000) == pytest.approx(2 * trained(10_000), abs=1)


def test_a_head_with_hidden_layers_is_trained_by_train(tmp_path: Path) -> None:
    text = "model: {head: {hidden: [64]}}\ntrain: {epochs: 3}"
    found = plan.work(_params(tmp_path, text), SPLITS)
    assert [(work.forward, work.trained) for work in found if work.stage == "train"] == [(3 * 20, 3 * 100)]


@pytest.mark.parametrize("text", ["activations: off", "augment: {online: true}", "finetune: {mixup: 0.2}"])
def test_frozen_blocks_are_not_counted_once_where_every_epoch_runs_them(tmp_path: Path, text: str) -> None:
    found = plan.work(_params(tmp_path, text), SPLITS)
    assert [work.stage for work in found] == ["tune", "tune", "finetune", "evaluate", "export"]
    assert found[0].forward == 100 + 20  # for the probe, clean images alone


def test_input_size_is_the_backbones_unless_given(tmp_path: Path) -> None:
    layout = _layout(a=100, b=100)
    assert plan.make(_params(tmp_path), layout, BACKBONE, 10**12).input_size == BACKBONE.input_size
    small = plan.make(_params(tmp_path, "model: {input_size: 64}\naugment: {views: 0}"), layout, BACKBONE, 10**12)
    assert (small.input_size, small.array_bytes) == (64, 200 * 64 * 64 * 3)


def test_sound_folder_gives_no_warnings(tmp_path: Path) -> None:
    assert plan.make(_params(tmp_path), _layout(a=200, b=100), BACKBONE, 10**12).warnings == []


@pytest.mark.parametrize(
    ("layout", "free", "expected"),
    [
        (_layout(rare=80, common=800), 10**12, "'common' has 10 times as many images as 'rare'"),
        (_layout(a=20, b=30), 10**12, "'a' has about 3 test images"),
        (_layout(a=100, b=100, strays=2), 10**12, "2 files are outside every class folder and are left out: 0.txt"),
        (_layout(a=100, b=100), 1000, "the arrays do not fit on the disk"),
        (_layout(a=15, b=15), 10**12, "goes beyond the 21 training images"),
    ],
)
def test_trouble_ahead_is_a_warning(layout: Layout, free: int, expected: str, tmp_path: Path) -> None:
    found = plan.make(_params(tmp_path), layout, BACKBONE, free).warnings
    assert any(expected in warning for warning in found), found


def test_images_with_several_labels_are_counted_once(tmp_path: Path) -> None:
    files = [SourceFile(f"{index}.png", "a;b" if index % 2 else "a", None) for index in range(100)]
    layout = Layout(Path("data"), files, ["x.png"], {"a": 100, "b": 50}, (), 1, "labels.csv")
    made = plan.make(_params(tmp_path), layout, BACKBONE, 10**12)
    assert (made.images, sum(made.splits.values()), made.labels) == (100, 100, "labels.csv")
    assert "1 files are not in labels.csv and are left out: x.png" in made.warnings
    with pytest.raises(UserError, match=r"take the label out of labels\.csv"):
        plan.make(_params(tmp_path, "prepare: {min_images_per_class: 51}"), layout, BACKBONE, 10**12)


@pytest.mark.parametrize("key", ["class_weights", "sampling"])
def test_balanced_training_answers_the_imbalance(tmp_path: Path, key: str) -> None:
    params = _params(tmp_path, f"finetune: {{{key}: balanced}}")
    assert plan.make(params, _layout(rare=80, common=800), BACKBONE, 10**12).warnings == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tune: {start: {freeze_depth: 9}}", r"tune\.start\.freeze_depth: 9 is out of range: resnet18 has 5 blocks"),
        ("tune: {search: {freeze_depth: {low: 0, high: 6}}}", r"tune\.search\.freeze_depth\.high: 6 is out of range"),
        ("model: {weights: nowhere.pth}", r"model\.weights: the file 'nowhere\.pth' does not exist"),
        ("tune: {start: {freeze_to: layer9}}", r"tune\.start\.freeze_to: resnet18 has no block 'layer9'"),
        ("model: {head: {pooling: token}}", r"model\.head\.pooling: token: resnet18 has no class token"),
        ("model: {stochastic_depth: 0.1}", r"model\.stochastic_depth: resnet18 has no stochastic depth"),
        ("prepare: {min_images_per_class: 101}", r"class 'a' has 100 usable images; 101 are needed"),
    ],
)
def test_mistakes_are_named_before_the_run(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        plan.make(_params(tmp_path, text), _layout(a=100, b=100), BACKBONE, 10**12)


def test_a_side_that_the_backbone_cannot_take_is_named_before_the_run(tmp_path: Path) -> None:
    params = _params(tmp_path, "model: {input_size: 100}")
    with pytest.raises(UserError, match=r"model\.input_size: 100 does not fit: vit_b_16 .*\n.* right value is 96"):
        plan.make(params, _layout(a=100, b=100), backbones.spec("vit_b_16"), 10**12)

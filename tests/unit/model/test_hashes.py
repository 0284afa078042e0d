"""Weights whose bytes are not the published ones are refused, with the file and what mends it."""

import hashlib
import subprocess
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights

from tests.unit.model.hub import in_cache, publish
from transferline.artifacts import sha256
from transferline.errors import UserError
from transferline.model import backbones, hashes
from transferline.model.weights import load_weights

RESNET, VIT, XCEPTION = map(backbones.spec, ("resnet18", "vit_small", "xception"))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18-f37072fd.pth", "f37072fd"),
        ("mnasnet1.0_top1_73.512-f206786ef8.pth", "f206786ef8"),
        ("efficientnet-lite0-57934424.pth", "57934424"),
        ("archive-0123456789.tar.gz", "0123456789"),
        ("vit-base.pth", None),
        ("model.safetensors", None),
    ],
)
def test_the_stamp_is_the_hash_at_the_end_of_the_name(name: str, expected: str | None) -> None:
    assert hashes.stamp(name) == expected


def test_a_flipped_bit_of_torchvisions_file_is_seen_and_removing_it_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download of other bytes is refused by torch.hub; what lies in its cache is checked here."""
    torch.manual_seed(5)
    file = publish(ResNet18_Weights.DEFAULT, RESNET.create().state_dict(), tmp_path, monkeypatch)
    whole, downloads = file.read_bytes(), []

    def download(url: str, target: str, hash_prefix: str | None) -> None:
        downloads.append((url.rsplit("/", 1)[-1], hash_prefix))
        Path(target).write_bytes(whole)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    flip(file)
    with pytest.raises(
        UserError, match=rf"{file.name} is damaged: its sha256 is not {hashes.stamp(file.name)}"
    ) as caught:
        load_weights(RESNET.create(), RESNET, "pretrained")
    assert not downloads
    command = caught.value.fix.partition("#")[0]
    subprocess.run(command, shell=True, check=True)  # noqa: S602 - the command that the user is given
    load_weights(RESNET.create(), RESNET, "pretrained")
    assert downloads == [(file.name, hashes.stamp(file.name))]


def test_a_flipped_bit_in_hugging_faces_cache_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    model = VIT.create()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    link = in_cache(tmp_path / "model.safetensors", tmp_path, monkeypatch)
    load_weights(VIT.create(), VIT, "pretrained")
    flip(link.resolve())
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: its sha256 is not [0-9a-f]{64}") as caught:
        load_weights(VIT.create(), VIT, "pretrained")
    assert f"rm '{link.resolve()}'" in caught.value.fix


def test_what_the_hub_keeps_in_git_is_checked_by_gits_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"content\n")
    digest = subprocess.run(["git", "hash-object", file], capture_output=True, text=True, check=True).stdout.strip()
    link = in_cache(file, tmp_path, monkeypatch, named=digest)
    hashes.require(link, hashes.stated(link))
    flip(link.resolve())
    with pytest.raises(UserError, match=f"its git sha1 is not {digest}"):
        hashes.require(link, hashes.stated(link))


def test_without_links_the_hub_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems that have none, where the cache does not say what the hash should be."""
    file = tmp_path / "model.safetensors"
    torch.manual_seed(5)
    save_file(VIT.create().state_dict(), file)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **_: str(file))
    asked = []

    class Metadata:
        etag = sha256(file)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: asked.append(url) or Metadata)
    load_weights(VIT.create(), VIT, "pretrained")
    assert asked[0].endswith("model.safetensors")
    flip(file)
    with pytest.raises(UserError, match="is damaged"):
        load_weights(VIT.create(), VIT, "pretrained")


class Surprise:
    """A pickled object, as an attacker would put in a weights file."""


@pytest.mark.parametrize("spec", [RESNET, XCEPTION], ids=lambda spec: spec.library)
def test_a_pickle_is_refused_even_under_the_right_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: backbones.Spec
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(hashes, "stamp", lambda _: None)  # as if the attacker had named it

    def download(_: str, target: str, hash_prefix: str | None) -> None:
        torch.save({"conv1.weight": Surprise()}, target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError, match=r"\.pth cannot be loaded: it is damaged, or holds objects") as caught:
        load_weights(spec.create(), spec, "pretrained")
    assert "rm '" in caught.value.fix


def test_what_is_no_hash_is_not_compared_with() -> None:
    assert hashes.hash_or_none("0123-2") is None  # S3's of a file sent in parts
    assert hashes.hash_or_none(None) is None
    assert hashes.hash_or_none("0" * 64) == "0" * 64


def test_a_file_without_a_published_hash_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hashes.require(tmp_path / "model.pth", None)
    assert "model.pth: nobody publishes its hash" in capsys.readouterr().out


def test_a_longer_stamp_is_compared_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    hashes.require(tmp_path / "file", digest)
    with pytest.raises(UserError, match="is damaged"):
        hashes.require(tmp_path / "file", digest[:-1] + ("0" if digest[-1] != "0" else "1"))

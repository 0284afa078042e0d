"""What libraries would have downloaded, put where they look for it; no network is needed."""

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from torchvision.models import WeightsEnum

from transferline.artifacts import sha256


def publish(weights: WeightsEnum, state: dict[str, torch.Tensor], home: Path, patch: pytest.MonkeyPatch) -> Path:
    """Put `state` where torch.hub would, under a name that ends in its hash, as if torchvision published it."""
    patch.setenv("TORCH_HOME", str(home))
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / "whole.pth")
    name = f"made-{sha256(folder / 'whole.pth')[:8]}.pth"
    patch.setattr(weights.value, "url", f"https://example.org/models/{name}")
    return (folder / "whole.pth").rename(folder / name)


def in_cache(file: Path, home: Path, patch: pytest.MonkeyPatch, named: str = "") -> Path:
    """Move `file` into a cache laid out as the Hugging Face hub's, whose download then gives it without a network."""
    blob = home / "cache" / "blobs" / (named or sha256(file))
    link = home / "cache" / "snapshots" / "0123" / file.name
    for place in (blob, link):
        place.parent.mkdir(parents=True)
    file.rename(blob)
    link.symlink_to(Path("../../blobs") / blob.name)

    def download(*, repo_id: str, filename: str, revision: str | None) -> str:
        if filename != link.name:
            raise EntryNotFoundError(f"{repo_id} has no {filename}")
        return str(link)

    patch.setattr(huggingface_hub, "hf_hub_download", download)
    return link

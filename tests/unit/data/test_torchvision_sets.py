import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from transferline.data import torchvision_sets
from transferline.errors import UserError


class Plain(datasets.FakeData):
    classes = ("cat", "T-shirt/top", "T-shirt top")

    def __init__(self, root: str, download: bool = False) -> None:
        super().__init__(size=12, image_size=(3, 8, 8), num_classes=3)


class Halves(Plain):
    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        assert download
        super().__init__(root)
        self.size = 9 if train else 5


class Thirds(Plain):
    names = ("train", "val", "test")

    def __init__(self, root: str, split: str = "train") -> None:
        if split not in self.names:
            raise ValueError(f"Unknown value '{split}' for argument split")
        super().__init__(root)
        self.size = 3 + self.names.index(split)


class TrainVal(Thirds):
    names = ("trainval", "val")


class Unreachable(Plain):
    def __init__(self, root: str) -> None:
        raise URLError("Name or service not known")


class Boxes(Plain):
    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, int]]:
        return Image.new("RGB", (8, 8)), {"box": 1}


class Needy(Plain):
    def __init__(self, root: str, annotations: str) -> None:
        super().__init__(root)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    made = [Plain, Halves, Thirds, TrainVal, Unreachable, Boxes, Needy]
    for kind in made:
        monkeypatch.setattr(datasets, kind.__name__, kind, raising=False)
    monkeypatch.setattr(datasets, "__all__", (*datasets.__all__, *(kind.__name__ for kind in made)))


def laid_out(name: str, tmp_path: Path) -> list[str]:
    (tmp_path / "out").mkdir()
    torchvision_sets.lay_out(name, tmp_path / "cache", tmp_path / "out")
    return sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))


def test_a_set_without_a_split_becomes_class_folders_with_safe_names(tmp_path):
    paths = laid_out("Plain", tmp_path)
    assert len(paths) == 12
    assert {path.split("/")[0] for path in paths} <= {"cat", "T-shirt_top_1", "T-shirt_top_2"}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Halves", {"train": 9, "test": 5}),
        ("Thirds", {"train": 3, "val": 4, "test": 5}),
        ("TrainVal", {"train": 3, "test": 4}),
    ],
)
def test_a_sets_own_split_is_kept(tmp_path, name, sizes):
    paths = laid_out(name, tmp_path)
    assert {part: sum(path.startswith(f"{part}/") for path in paths) for part in sizes} == sizes
    assert len(paths) == sum(sizes.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CIFAR01", "did you mean 'CIFAR10'"),
        ("wrap_dataset_for_transforms_v2", "is not known"),
        ("Unreachable", "cannot be had: .*Name or service not known.*\n.*connect to the network"),
        ("Boxes", "not a set of images with one class each"),
        ("Needy", "cannot be laid out"),
    ],
)
def test_what_cannot_be_laid_out_is_explained(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        laid_out(name, tmp_path)


def test_torchvisions_own_cifar10_is_read_from_its_files(tmp_path, monkeypatch):
    files = tmp_path / "cache" / "cifar-10-batches-py"
    files.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ["test_batch", *(f"data_batch_{number}" for number in range(1, 6))]:
        batch = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [0, 1, 1, 0]}
        (files / name).write_bytes(pickle.dumps(batch))
    (files / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile"]}))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    paths = laid_out("CIFAR10", tmp_path)
    assert len(paths) == 24
    assert {path.rsplit("/", 1)[0] for path in paths} == {
        f"{part}/{label}" for part in ("train", "test") for label in ("airplane", "automobile")
    }
    with Image.open(tmp_path / "out" / paths[0]) as image:
        assert image.size == (32, 32)

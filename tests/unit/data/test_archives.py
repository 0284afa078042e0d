"""Archives and pickles as an attacker would make them: nothing is written elsewhere, nothing is run."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets
from torchvision.datasets.utils import extract_archive

from transferline.data import torchvision_sets
from transferline.data.archives import guarded
from transferline.errors import UserError

Fill = Callable[[tarfile.TarFile, Path], None]


def add(archive: tarfile.TarFile, name: str, content: bytes = b"evil") -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def link(archive: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    archive.addfile(member)


ESCAPES: dict[str, Fill] = {
    "upwards": lambda archive, _: add(archive, "../evil"),
    "absolute link": lambda archive, out: link(archive, "way", str(out)),
    "link upwards": lambda archive, _: link(archive, "way", "../.."),
    "hard link": lambda archive, _: link(archive, "way", "../secret", tarfile.LNKTYPE),
    "through a link": lambda archive, out: (link(archive, "way", str(out)), add(archive, "way/evil"))[0],
    "device": lambda archive, _: link(archive, "way", "", tarfile.CHRTYPE),
}


def unpack(path: Path, target: Path) -> None:
    """As data sets do it that are not torchvision's own function's: without a filter."""
    with tarfile.open(path) as archive:
        archive.extractall(target)  # noqa: S202 - that it is guarded is what is tested


@pytest.mark.parametrize("extract", [extract_archive, unpack], ids=["torchvision", "plain"])
@pytest.mark.parametrize("name", ESCAPES)
def test_an_archive_that_leaves_its_folder_is_refused(
    tmp_path: Path, name: str, extract: Callable[[str, str], object]
) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "out").mkdir()
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        ESCAPES[name](archive, tmp_path / "out")
    with pytest.raises(tarfile.FilterError), guarded():
        extract(str(tmp_path / "set.tar"), str(tmp_path / "target"))
    assert sorted(path.name for path in tmp_path.iterdir()) in (["out", "secret", "set.tar"], EXTRACTED)
    assert not list((tmp_path / "out").iterdir())


EXTRACTED = ["out", "secret", "set.tar", "target"]


def test_an_absolute_path_is_taken_as_a_relative_one(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        add(archive, f"{tmp_path}/evil")
    with guarded():
        unpack(tmp_path / "set.tar", tmp_path / "target")
    assert not (tmp_path / "evil").exists()
    assert (tmp_path / "target" / f"{tmp_path}/evil".lstrip("/")).read_bytes() == b"evil"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:\\evil"])
def test_a_zip_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(name, b"evil")
        entry = zipfile.ZipInfo("way")
        entry.external_attr = 0o120777 << 16  # a symbolic link
        archive.writestr(entry, "..")
    with guarded():
        extract_archive(str(tmp_path / "set.zip"), str(tmp_path / "target"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.zip", "target"]
    assert not any(path.is_symlink() for path in (tmp_path / "target").rglob("*"))
    assert sum(path.is_file() for path in (tmp_path / "target").rglob("*")) == 2


def test_afterwards_everything_is_as_before() -> None:
    before = tarfile.TarFile.extraction_filter, datasets.cifar.pickle, datasets.lsun.pickle
    with pytest.raises(RuntimeError), guarded():
        raise RuntimeError
    assert (tarfile.TarFile.extraction_filter, datasets.cifar.pickle, datasets.lsun.pickle) == before


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_a_data_set_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tmp_path / "cache" / "cifar-10-batches-py"
    files.mkdir(parents=True)
    for name in ["test_batch", *(f"data_batch_{number}" for number in range(1, 6))]:
        batch = {"data": np.zeros((1, 3072), np.uint8), "labels": [Attack(tmp_path / "evil")]}
        (files / name).write_bytes(pickle.dumps(batch))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda _: True)
    with pytest.raises(UserError, match=r"(?s)'CIFAR10' under .*cache are damaged.*asks for posix\.mkdir.*dvc repro"):
        torchvision_sets.lay_out("CIFAR10", tmp_path / "cache", tmp_path / "out")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_numbers_are_read(protocol: int) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    stream = io.BytesIO(pickle.dumps({"data": array, "labels": [1, 2]}, protocol=protocol))
    with guarded():
        found = datasets.cifar.pickle.load(stream, encoding="latin1")
    np.testing.assert_array_equal(found["data"], array)
    assert found["labels"] == [1, 2]

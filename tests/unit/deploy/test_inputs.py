"""What predict is given: the order, what is listed when, and what a folder may hold."""

import os
from pathlib import Path

import pytest
from PIL import Image

from transferline.data.images import ImageError
from transferline.deploy import inputs
from transferline.errors import UserError


def made(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / name, "PNG")
    return root


def named(root: Path, *arguments: Path) -> list[str]:
    found = list(inputs.expand(list(map(str, arguments or [root]))))
    assert inputs.count(list(map(str, arguments or [root]))) == len(found)
    return [Path(each.name).relative_to(root).as_posix() for each in found]


def test_a_folder_gives_its_images_in_the_order_of_their_paths(tmp_path: Path) -> None:
    root = made(tmp_path, "b/2.png", "b/1.png", "b.png", "a", "b/deep/er/0.jpg", "b-1.png", "c/x.webp", "B.png")
    (root / "notes.txt").write_text("no image")
    (root / "c/broken.jpg").write_text("no image")
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "notes.txt"]
    assert named(root) == [path.relative_to(root).as_posix() for path in sorted(files)]


def test_arguments_keep_their_order_and_may_repeat(tmp_path: Path) -> None:
    root = made(tmp_path, "a/1.png", "b/1.png")
    assert named(root, root / "b", root / "a/1.png", root / "a") == ["b/1.png", "a/1.png", "a/1.png"]


def test_hidden_files_and_what_is_no_file_are_left_out(tmp_path: Path) -> None:
    root = made(tmp_path, "a.png", "._a.png", ".thumbnails/a.png")
    os.mkfifo(root / "pipe.png")
    (root / "nowhere.png").symlink_to(root / "missing.png")
    assert named(root) == ["a.png"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = made(tmp_path / "images", "a/1.png")
    made(tmp_path / "elsewhere", "2.png")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a/loop").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    assert named(root) == ["a/1.png", "b/2.png", "self.png"]


def test_a_folder_is_listed_when_its_turn_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made(tmp_path, *(f"{folder}/{index}.png" for folder in "abc" for index in range(3)))
    found = inputs.expand([str(root)])
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path).name) or scandir(path))
    next(found)
    assert listed == [root.name, "a"]
    assert len(list(found)) == 8
    assert listed == [root.name, "a", "b", "c"]


def test_a_folder_that_cannot_be_listed_is_an_input_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scandir = made(tmp_path, "a/1.png", "b/1.png", "c/1.png"), os.scandir

    def refused(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert named(root) == ["a/1.png", "b", "c/1.png"]
    source = list(inputs.expand([str(root)]))[1].source
    assert isinstance(source, ImageError)
    assert str(source) == "unreadable: Permission denied"


def test_a_folder_without_images_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    made(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="b holds no images"):
        inputs.expand([str(tmp_path / "a"), str(tmp_path / "b")])


def test_names_that_are_no_text_are_printed_with_escapes(tmp_path: Path) -> None:
    made(tmp_path, os.fsdecode(b"caf\xe9.png"))
    (found,) = inputs.expand([str(tmp_path)])
    assert found.name == f"{tmp_path}/caf\\xe9.png"
    assert isinstance(found.source, Path)
    assert found.source.is_file()

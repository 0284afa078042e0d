import os
from pathlib import Path

import pytest

from transferline.data import sources
from transferline.errors import UserError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"12345")
    return root


def test_class_folders_are_listed_with_what_is_nested_in_them(tmp_path):
    touch(tmp_path, "cat/1.jpg", "cat/more/2.jpg", "dog/1.txt", "readme.md", ".hidden/x", "dog/.DS_Store")
    layout = sources.scan(tmp_path)
    assert [file.path for file in layout.files] == ["cat/1.jpg", "cat/more/2.jpg", "dog/1.txt"]
    assert {file.split for file in layout.files} == {None}
    assert layout.classes == {"cat": 2, "dog": 1}
    assert layout.strays == ["readme.md"]
    assert layout.splits == ()
    assert layout.total_bytes == 15


def test_the_users_split_is_recognised_under_its_usual_names(tmp_path):
    touch(tmp_path, "train/a/1", "train/b/2", "valid/a/3", "test/b/4", "test/list.txt")
    layout = sources.scan(tmp_path)
    assert layout.splits == ("train", "val", "test")
    assert {file.path: (file.label, file.split) for file in layout.files} == {
        "train/a/1": ("a", "train"),
        "train/b/2": ("b", "train"),
        "valid/a/3": ("a", "val"),
        "test/b/4": ("b", "test"),
    }
    assert layout.strays == ["test/list.txt"]


def test_train_and_test_without_val_are_accepted(tmp_path):
    layout = sources.scan(touch(tmp_path, "train/a/1", "train/b/2", "test/a/3"))
    assert layout.splits == ("train", "test")


def test_a_class_may_be_called_train(tmp_path):
    assert sources.scan(touch(tmp_path, "train/1", "bus/1")).classes == {"bus": 1, "train": 1}


def test_a_link_that_leads_back_up_is_followed_once(tmp_path):
    touch(tmp_path, "a/1", "b/1")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    assert sources.scan(tmp_path).classes == {"a": 1, "b": 1, "linked": 1}


def test_a_broken_link_is_listed(tmp_path):
    touch(tmp_path, "a/1", "b/1")
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nowhere")
    assert sources.scan(tmp_path).classes["a"] == 2


@pytest.mark.parametrize(
    ("paths", "what"),
    [
        (["loose.jpg"], "no class folders"),
        (["a/1"], "one class only, 'a'"),
        (["train/a/1", "val/a/1"], "train but no test"),
        (["train/a/1", "train/b/1"], "train but no test"),
        (["train/a/1", "test/a/1", "extra/x"], "beside it, 'extra'"),
        (["train/a/1", "test/a/1", "val/a/1", "valid/a/1"], "twice"),
        (["a/.hidden", "b/.hidden"], "hold no files"),
    ],
)
def test_a_folder_that_cannot_serve_is_refused(tmp_path, paths, what):
    with pytest.raises(UserError, match=what):
        sources.scan(touch(tmp_path, *paths))


def test_a_missing_folder_is_met_with_the_nearest_one(tmp_path):
    touch(tmp_path, "photos/a/1", "other/1")
    with pytest.raises(UserError, match="did you mean 'photos'"):
        sources.scan(tmp_path / "fotos")
    with pytest.raises(UserError, match="did you mean 'photos'"):
        sources.scan(tmp_path / "photo" / "deeper")
    with pytest.raises(UserError, match="there are no folders in"):
        sources.scan(tmp_path / "photos" / "a" / "b")
    with pytest.raises(UserError, match="is a file"):
        sources.scan(tmp_path / "other" / "1")


def test_a_sample_that_is_not_laid_out_yet_is_no_riddle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="dvc repro fetch"):
        sources.scan(Path("data/sample"))


def test_a_class_name_that_is_not_utf8_is_refused_in_print(tmp_path):
    touch(tmp_path, "a/1")
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")  # noqa: PTH102 - a path of bytes
    with pytest.raises(UserError, match=r"caf\\xe9"):
        sources.scan(tmp_path)


def test_too_small_a_class_is_named_with_what_it_lacks():
    sources.require_enough({"a": 3, "b": 5}, 3)
    with pytest.raises(UserError, match="class 'a' has 3 usable images; 4 are needed\n  add 1 images"):
        sources.require_enough({"a": 3, "b": 5}, 4)

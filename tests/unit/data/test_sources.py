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


def test_a_broken_link_is_named_before_dvc_fails_at_it(tmp_path):
    touch(tmp_path, "a/1", "b/1", ".hidden/x")
    for index in range(5):
        (tmp_path / ".hidden" / f"gone{index}").symlink_to(tmp_path / "nowhere")
    what = r"'.hidden/gone0' \(a link to nothing\), .* and 2 more\n.*dvc repro"
    with pytest.raises(UserError, match=what):
        sources.scan(tmp_path)


def test_a_broken_link_behind_a_linked_folder_is_no_business_of_dvcs(tmp_path):
    touch(tmp_path / "in", "a/1", "b/1")
    touch(tmp_path / "out", "2")
    (tmp_path / "out" / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "a" / "linked").symlink_to(tmp_path / "out")
    assert sources.scan(tmp_path / "in").classes["a"] == 3


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


def labelled(root: Path, text: str) -> Path:
    """Three images in a folder, and beside them a CSV."""
    touch(root, "images/1.png", "images/2.png", "images/3.png", "images/.hidden", "notes/readme.md")
    (root / "labels.csv").write_text(text)
    return root


def test_a_csv_of_labels_names_the_images(tmp_path):
    text = "path,labels\nimages/2.png,dog;cat\nimages/1.png,dog\n"
    layout = sources.scan(labelled(tmp_path, text), "labels.csv")
    assert [(file.path, file.label) for file in layout.files] == [("images/1.png", "dog"), ("images/2.png", "cat;dog")]
    assert layout.classes == {"cat": 1, "dog": 2}
    assert layout.strays == ["images/3.png", "notes/readme.md"]
    assert (layout.multilabel, layout.labels, layout.splits, layout.total_bytes) == (True, "labels.csv", (), 10)


def test_the_csv_may_be_given_by_its_path_and_lie_deeper(tmp_path, monkeypatch):
    root = labelled(tmp_path / "data", "path,cat,dog\nimages/1.png,1,0\nimages/2.png,0,1\n")
    (root / "meta").mkdir()
    (root / "labels.csv").rename(root / "meta" / "all.csv")
    monkeypatch.chdir(tmp_path)
    for given in ("meta/all.csv", "data/meta/all.csv", str(root / "meta" / "all.csv")):
        layout = sources.scan(Path("data"), given)
        assert layout.labels == "meta/all.csv"
        assert "meta/all.csv" not in layout.strays


def test_a_column_of_splits_is_the_users_own_split(tmp_path):
    rows = "path,labels,split\nimages/1.png,a,train\nimages/2.png,b,{}\nimages/3.png,a;b,train\n"
    assert sources.scan(labelled(tmp_path, rows.format("test")), "labels.csv").splits == ("train", "test")
    with pytest.raises(UserError, match=r"names no image of test\n.*val is taken out of train"):
        sources.scan(labelled(tmp_path, rows.format("val")), "labels.csv")


def test_missing_images_are_counted_and_the_first_are_named(tmp_path):
    text = "path,labels\nimages/1.png,a;b\n" + "".join(f"images/x{n}.png,a\n" for n in range(5))
    expected = r"names 5 of 6 images that do not exist: 'images/x0.png' \(line 3\), .* and 2 more\n.*relative to"
    with pytest.raises(UserError, match=expected):
        sources.scan(labelled(tmp_path, text), "labels.csv")


def test_a_csv_that_is_not_there_or_not_inside_the_folder_is_refused(tmp_path):
    root = labelled(tmp_path / "data", "path,labels\nimages/1.png,a;b\n")
    with pytest.raises(UserError, match=r"'label.csv' does not exist in .*\n.*did you mean 'labels.csv'"):
        sources.scan(root, "label.csv")
    outside = tmp_path / "outside.csv"
    outside.write_text("path,labels\nimages/1.png,a;b\n")
    with pytest.raises(UserError, match=r"is not inside data.root.*\n.*DVC"):
        sources.scan(root, str(outside))


@pytest.mark.parametrize("paths", [["1.png"], ["images/1.png"], ["train/1.png", "test/2.png"]])
def test_a_folder_with_labels_and_no_classes_is_told_of_the_key(tmp_path, paths):
    touch(tmp_path, *paths, "labels.csv", "another.csv")
    with pytest.raises(UserError, match=r"file of labels, labels\.csv.*\n  set data\.labels: labels\.csv"):
        sources.scan(tmp_path)


def test_too_small_a_label_is_to_be_taken_out_of_the_csv():
    with pytest.raises(UserError, match=r"take the label out of labels\.csv"):
        sources.require_enough({"a": 3, "b": 5}, 4, labels="labels.csv")

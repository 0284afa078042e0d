from pathlib import Path

import pytest

from transferline.data import exclude, manifest, sources
from transferline.errors import UserError
from transferline.sections import Prepare, Split

from .test_manifest import build, labelled, make

ODD = ['c,"d".png', "new\nline.png", "#hash.png", " space .png", "ret\rurn.png", "plain.png", "u\u2028.png"]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sources.Layout:
    """Files of odd names in class a, and a project folder to be in."""
    for name in ("1.png", *ODD):
        for label in "ab":
            (tmp_path / "in" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / label / name).touch()
    monkeypatch.chdir(tmp_path)
    return sources.scan(Path("in"))


def left_out(layout: sources.Layout, text: str) -> list[str]:
    Path("exclude.txt").write_bytes(text.encode())
    kept, rejected = exclude.apply(layout, "exclude.txt")
    assert {file.path for file in kept.files} | {each.path for each in rejected} == {f.path for f in layout.files}
    assert {each.reason for each in rejected} <= {"excluded by exclude.txt"}
    return sorted(each.path for each in rejected)


def test_nothing_is_listed_by_default(layout):
    assert exclude.apply(layout, "exclude.txt") == (layout, [])
    assert left_out(layout, "# a/1.png\n\n  \n") == []


def test_paths_stand_one_a_line_whatever_ends_it(layout):
    assert left_out(layout, "\ufeffa/1.png\r\n  b/1.png  \r\n# comment\r\n./a/plain.png\na\\1.png") == [
        "a/1.png",
        "a/plain.png",
        "b/1.png",
    ]
    assert left_out(layout, "in/a/1.png\na/1.png\na/1.png") == ["a/1.png"]


def test_names_that_need_no_quotes_may_be_written_bare(layout):
    bare = [f"a/{name}" for name in ODD if "\n" not in name]
    assert left_out(layout, "".join(f"{path}\n" for path in bare)) == sorted(bare)


def test_lines_of_a_csv_may_be_pasted(layout):
    quoted = ['"a/{}",wrong,"b, c",0.5'.format(name.replace('"', '""')) for name in ODD]
    assert left_out(layout, "\n".join(["# from label_errors.csv", *quoted, "b/1.png,x,y,0.1"])) == sorted(
        [*(f"a/{name}" for name in ODD), "b/1.png"]
    )


def test_what_does_not_exist_is_named_with_its_line_and_the_nearest_path(layout):
    for wrong, near in (("a/plan.png", "a/plain.png"), ("plain.png", "./plain.png"), ("c/1.png", "./1.png")):
        with pytest.raises(
            UserError, match=rf"exclude.txt, line 3: '{wrong}' does not exist.*\n.*did you mean '{near}'"
        ):
            left_out(layout, f"# one\na/1.png\n{wrong}\n")
    with pytest.raises(UserError, match=r"line 1: .*\n.*relative to data.root"):
        left_out(layout, "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\n")


def test_a_list_of_another_name_must_exist_and_any_must_be_text(layout):
    with pytest.raises(UserError, match=r"prepare.exclude: mine.txt cannot be read: No such file.*\n.*empty"):
        exclude.apply(layout, "mine.txt")
    Path("exclude.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"exclude\.txt is not UTF-8"):
        exclude.apply(layout, "exclude.txt")


def test_an_excluded_image_is_neither_used_nor_decoded(tmp_path, monkeypatch):
    root = make(tmp_path / "in", {"a": 6, "b": 6})
    (root / "a" / "000.png").write_bytes(b"broken")
    (tmp_path / "mine.txt").write_text("a/000.png\nb/005.png\n")
    monkeypatch.chdir(tmp_path)
    prepared = build(root, exclude="mine.txt")
    assert prepared.quarantine == [("a/000.png", "excluded by mine.txt"), ("b/005.png", "excluded by mine.txt")]
    assert len(prepared.rows) == 10


def test_a_class_that_is_excluded_away_is_explained(tmp_path, monkeypatch):
    root = make(tmp_path / "in", {"a": 3, "b": 6})
    (tmp_path / "exclude.txt").write_text("a/000.png\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"class 'a' has 2 usable images.*\n.*excluded by exclude.txt"):
        build(root)


def test_images_of_label_sets_are_excluded_too(tmp_path, monkeypatch):
    root = labelled(tmp_path / "in", ["a;b", "a", "", "b"] * 4)
    (tmp_path / "exclude.txt").write_text("003.png\nlabels.csv.bak\n")
    (root / "labels.csv.bak").touch()
    monkeypatch.chdir(tmp_path)
    prepared = manifest.build(sources.scan(root, "labels.csv"), Split(), Prepare(), seed=1)
    assert prepared.quarantine == [
        ("003.png", "excluded by exclude.txt"),
        ("labels.csv.bak", "not in labels.csv"),
    ]
    assert len(prepared.rows) == 15

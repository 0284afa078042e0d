"""A CSV of labels is read in the forms that people write, and what is wrong with it is said with its line."""

from pathlib import Path

import pytest

from transferline.data import labels
from transferline.errors import UserError


def read(folder: Path, text: str | bytes) -> list[tuple[str, str, str | None]]:
    file = folder / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(row.path, row.label, row.split) for row in labels.read(file)]


@pytest.mark.parametrize(
    "text",
    [
        "path,labels\na.png,dog;cat\nb/c.png,\n",
        "Image,Tags\na.png,cat | dog\nb/c.png,\n",
        'filename,labels\na.png,"dog,cat"\nb/c.png,""\n',
        "file,cat,dog\na.png,1,1\nb/c.png,0,0\n",
        "file,dog,cat\r\n./a.png,1, 1\r\nb\\c.png,0,0\r\n\r\n",
    ],
)
def test_every_form_gives_sorted_sets(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == [("a.png", "cat;dog", None), ("b/c.png", "", None)]


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeffpath,cat,dog\na,1,0\nb,0,1\n")[0] == ("a", "cat", None)


def test_a_split_of_the_users_own_is_read_under_its_usual_names(tmp_path: Path) -> None:
    found = read(tmp_path, "path,cat,split,dog\na,1,train,0\nb,0,Valid,1\nc,1,TEST,1\n")
    assert [split for _, _, split in found] == ["train", "val", "test"]
    assert found[2][1] == "cat;dog"


def test_names_may_hold_spaces_and_quoted_commas_where_semicolons_separate(tmp_path: Path) -> None:
    assert read(tmp_path, 'path,labels\na,"Edema, mild;Fibrosis of lung;"\n')[0][1] == "Edema, mild;Fibrosis of lung"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,labels\na,cat\na,dog\n", r"line 3: 'a' stands in line 2 already"),
        ("path,cat,dog\na,1,0\nb,1,2\n", r"line 3: 'dog' holds '2'\n  write 0 or 1"),
        ("path,cat,dog,age\na,1,0,57\n", r"line 2: 'age' holds '57'\n.*taken away"),
        ("path,labels,age\na,cat;dog,57\n", r"line 1: unknown column 'age'\n.*only 'split' is known"),
        ("id,labels\na,cat;dog\n", r"line 1: the first column is 'id'\n.*path, image, filename, file"),
        ("path;labels\na;cat\n", r"line 1: one column only.*\n.*commas between the columns"),
        ("path\na\n", r"line 1: there are no labels"),
        ("path,cat\na,1\n", r"line 1: 'cat' is the only column of labels"),
        ("path,labels\na,cat\nb,\n", r"holds one label only, 'cat'"),
        ("path,labels\na,\nb,\n", r"holds no labels"),
        ("path,cat,dog,owl\na,1,0,0\nb,0,1,0\n", r"no image has the label 'owl'"),
        ("path,a;b,c\nx,1,0\n", r"line 1: the label 'a;b' contains ';'"),
        ("path,cat,cat\na,1,0\n", r"line 1: column 3 has the name of another, 'cat'"),
        ("path,cat,\na,1,0\n", r"line 1: column 3 has no name"),
        ("path,labels\na,cat,dog\n", r"line 2: 3 columns, where the header has 2\n.*quotes"),
        ('path,labels\na,"cat, dog"\n', r"line 2: 'cat, dog' may be one label with a comma in it, or several"),
        ("path,labels\na,x;y\nb,x\nc,x|y\n", r"line 4: labels are separated by ';' and, elsewhere, by '\|'"),
        ("path,labels,split\na,cat;dog,trian\n", r"line 2: 'trian' is no split\n.*did you mean 'train'"),
        ("path,labels\n../a,cat;dog\n", r"line 2: '../a' is no path inside data.root"),
        ("path,labels\n,cat;dog\n", r"line 2: '' is no path inside"),
        ('path,labels\na,"cat;dog\n', r"line \d: not valid CSV"),
        ("path,labels\n", r"holds no images"),
        ("", r"holds no images"),
        (b"path,labels\na,caf\xe9;b\n", r"is not UTF-8 text"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)

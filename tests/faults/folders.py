"""Names, links, odd files and whole folders: for each row of docs/data.md, a function that makes it."""

import os
import shutil
import socket
from pathlib import Path

from PIL import Image

from tests.faults.corpus import Expected, case, picture, save

CRASH, HANG = b"crash the decoder", b"hang the decoder"  # what the test's decoder dies of


def named(root: Path, *paths: str) -> Expected:
    """A picture of its own under each path, written without a suffix that Pillow would go by."""
    found: Expected = {}
    for seed, path in enumerate(paths, 20):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        found[path] = picture(seed)
        with (root / path).open("wb") as stream:
            Image.fromarray(picture(seed)).save(stream, format="PNG")
    return found


@case
def spaces_and_marks(root: Path) -> Expected:
    names = (" x y .png", 'c,"d",e.png', "semi;pipe|.png", "<script>alert(1)</script >.png", "-rf.png", "b\\c.png")
    return named(root, *(f"a/{name}" for name in (*names, "$x$.png", "#hash.png", "100%.png", "~.png", "nul")))


@case
def newlines(root: Path) -> Expected:
    return named(root, "a/new\nline.png", "a/carriage\rreturn.png", "a/tab\tbell\a.png", "a/both\r\n.png")


@case
def emoji_and_scripts(root: Path) -> Expected:
    return named(root, "a/🧵😀.png", "a/مرحبا.png", "a/日本語.png", "a/e\u0301.png", "a/\u00e9.png", "a/\u2028.png")


@case
def names_by_case(root: Path) -> Expected:
    return named(root, "a/x.png", "a/X.png", "a/X.PNG")


@case
def not_utf8(root: Path) -> Expected:
    return named(root, os.fsdecode(b"a/caf\xe9.png"))


@case
def long_names(root: Path) -> Expected:
    deep = "a/" + "/".join(["d" * 200] * 15)
    return named(root, f"a/{'n' * 251}.png", f"a/{'ü' * 127}", f"{deep}/x.png")


@case
def path_too_long(root: Path) -> Expected:
    here = os.open(root / "a", os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        here, above = os.open("d" * 200, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    return {}


@case
def hidden_files(root: Path) -> Expected:
    return named(root, "a/.x.png", ".thumbnails/x.png", "a/.ipynb_checkpoints/y.png")


@case
def strays(root: Path) -> Expected:
    return named(root, "x.png", "list.csv")


@case
def folder_named_as_an_image(root: Path) -> Expected:
    (root / "a/empty.jpg").mkdir()
    return named(root, "a/x.jpg/inside.png")


@case
def links_out_of_the_folder(root: Path) -> Expected:
    outside = root.parent / "outside"
    named(outside, "1.png", "sub/2.png")
    (root / "a/x.png").symlink_to(outside / "1.png")
    (root / "a/all").symlink_to(outside / "sub")
    return {"a/x.png": picture(20), "a/all/2.png": picture(21)}


@case
def links_that_lead_back(root: Path) -> Expected:
    (root / "a/up").symlink_to(root / "a")
    (root / "a/over").symlink_to(root / "a/up")
    return named(root, "a/x.png")


@case
def links_in_a_circle(root: Path) -> Expected:
    (root / "a/x.png").symlink_to("y.png")
    (root / "a/y.png").symlink_to("x.png")
    return {}


@case
def links_to_nothing(root: Path) -> Expected:
    (root / "a/x.png").symlink_to("nowhere.png")
    return {}


@case
def named_pipe(root: Path) -> Expected:
    os.mkfifo(root / "a/x.jpg")
    return {}


@case
def socket_file(root: Path) -> Expected:
    here = Path.cwd()
    os.chdir(root / "a")  # the path of a socket has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x.jpg")
    finally:
        os.chdir(here)
    return {}


@case
def device(root: Path) -> Expected:
    (root / "a/x.jpg").symlink_to("/dev/zero")
    return {}


@case
def unreadable_file(root: Path) -> Expected:
    named(root, "a/x.png")
    (root / "a/x.png").chmod(0)
    return {}


@case
def unreadable_folder(root: Path) -> Expected:
    named(root, "a/x/1.png")
    (root / "a/x").chmod(0)
    return {}


@case
def crashing_file(root: Path) -> Expected:
    (root / "a/x.jpg").write_bytes(CRASH)
    return {"a/x.jpg": None}


@case
def hanging_file(root: Path) -> Expected:
    (root / "a/x.jpg").write_bytes(HANG)
    return {"a/x.jpg": None}


@case
def copies(root: Path) -> Expected:
    named(root, "a/x.png")
    shutil.copyfile(root / "a/x.png", root / "a/copy.png")
    save(root / "a/other.bmp", picture(20))
    return dict.fromkeys(("a/x.png", "a/copy.png", "a/other.bmp"), picture(20))


@case
def one_content_two_classes(root: Path) -> Expected:
    named(root, "a/x.png")
    save(root / "b/x.bmp", picture(20))
    return {"a/x.png": None, "b/x.bmp": None}


@case
def blank_images(root: Path) -> Expected:
    blank = {f"a/{grey}.png": picture(0) * 0 + grey for grey in (0, 128, 255)}
    for path, pixels in blank.items():
        save(root / path, pixels)
    return blank


@case
def twins_across_a_split(root: Path) -> Expected:
    for part in ("train", "val", "test"):
        for label in "ab":
            (root / part).mkdir(exist_ok=True)
            shutil.copytree(root / label, root / part / label)
    for folder in (root / "a", root / "b"):
        shutil.rmtree(folder)
    return {f"{part}/a/0.png": picture(0) for part in ("train", "test")}


@case
def excluded(root: Path) -> Expected:
    (root.parent / "exclude.txt").write_text("# not these\n\na/x.png\n'a/y.png',b,0.01\n".replace("'", '"'))
    named(root, "a/x.png", "a/y.png")
    return {"a/x.png": None, "a/y.png": None}


@case
def excluded_and_unknown(root: Path) -> Expected:
    (root.parent / "exclude.txt").write_text("# not these\n\na/1.pgn\n")
    return {}


@case
def empty_class(root: Path) -> Expected:
    (root / "c").mkdir()
    return {}


@case
def few_usable(root: Path) -> Expected:
    for index in range(4):
        save(root / f"c/{index}.png", picture(30 + index, side=40 if index < 2 else 16))
    return {}


@case
def one_class(root: Path) -> Expected:
    shutil.rmtree(root / "b")
    return {}


@case
def no_classes(root: Path) -> Expected:
    shutil.rmtree(root)
    return named(root, "x.png")


@case
def nothing_usable(root: Path) -> Expected:
    for file in root.glob("*/*"):
        file.write_text("no image")
    return {}


@case
def one_image_per_class(root: Path) -> Expected:
    named(root, *(f"class{index:02}/x.png" for index in range(20)))
    return {}


@case
def thousand_classes(root: Path) -> Expected:
    for label in "ab":
        shutil.rmtree(root / label)
    return named(root, *many(1000, 3))


@case
def many_tiny_files(root: Path) -> Expected:
    shutil.rmtree(root / "b")
    return named(root, *many(2, 1000))


@case
def odd_class_names(root: Path) -> Expected:
    names = ("two words", "😀", "<script>", "$x$", "new\nline", "c,d", "日本語", "ü" * 127)
    return named(root, *(f"{name}/{index}.png" for name in names for index in range(3)))


@case
def class_not_utf8(root: Path) -> Expected:
    (root / os.fsdecode(b"caf\xe9")).mkdir()
    return {}


def many(classes: int, images: int) -> list[str]:
    return [f"class{label:04}/{index:04}.png" for label in range(classes) for index in range(images)]

"""The README is true: its map names every file, its table is what the models say, its commands exist."""

import re
from pathlib import Path

from tests.contract.closure import ROOT
from transferline import reference

README = (ROOT / "README.md").read_text(encoding="utf-8")


def mapped() -> set[Path]:
    """The Python files that the map of the tree names, from its indentation."""
    (text,) = re.findall(r"## The tree\n.*?```\n(.*?)```", README, flags=re.S)
    folders: list[Path] = []
    files: set[Path] = set()
    for line in text.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        parent = folders[depth - 1] if depth else Path()
        if name.endswith("/"):
            folders[depth:] = [parent / name]
        elif name.endswith(".py"):
            files.add(parent / name)
    return files


def test_the_map_names_every_file_of_the_line_and_no_other() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "pipeline").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    assert mapped() == {path.relative_to(ROOT) for path in sources if path.name != "__init__.py"}


def test_the_table_of_parameters_is_what_the_models_say() -> None:
    (table,) = re.findall(r"<!-- params:begin -->\n(.*?)\n?<!-- params:end -->", README, flags=re.S)
    assert table.strip() == reference.markdown().strip()


def test_the_two_commands_stand_alone_in_their_lines() -> None:
    lines = README.splitlines()
    assert "pip install uv && uv run dvc repro" in lines
    assert "pip install uv && uv run pytest" in lines
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert ci[-1] == "pip install uv && uv run pytest"


def test_pictures_of_the_readme_are_there() -> None:
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).stat().st_size > 10_000, picture

"""What `pytest` alone leaves to .ci/run: it says so, where that is true, and .ci/run does run it."""

import pytest

from tests.conftest import left_out, selects_by_default
from tests.contract.closure import ROOT

pytest_plugins = ["pytester"]
SAID = "left to .ci/run: tests marked slow, tests marked odd, tests/faults"
SETTINGS = """
[tool.pytest.ini_options]
testpaths = ["tests/unit"]
addopts = "-m 'not slow and not odd'"
markers = ["slow", "odd"]
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A tiny project with the conftest of this one."""
    for file, text in {
        "pyproject.toml": SETTINGS,
        "tests/unit/test_one.py": "import pytest\ndef test_a(): pass\n@pytest.mark.slow\ndef test_b(): assert 0\n",
        "tests/unit/test_two.py": "def test_c(): assert 0\n",
        "tests/faults/test_three.py": "def test_d(): assert 0\n",
        "tests/conftest.py": (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"),
    }.items():
        (pytester.path / file).parent.mkdir(parents=True, exist_ok=True)
        (pytester.path / file).write_text(text, encoding="utf-8")
    return pytester


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "with workers"])
def test_it_says_what_it_left_out_once_also_where_tests_fail(suite: pytest.Pytester, workers: tuple[str, ...]) -> None:
    result = suite.runpytest_subprocess(*workers)
    result.assert_outcomes(passed=1, failed=1, deselected=0 if workers else 1)
    assert result.outlines.count(SAID) == 1


def test_it_says_nothing_where_it_did_not_run_to_the_end(suite: pytest.Pytester) -> None:
    (suite.path / "tests" / "unit" / "test_two.py").write_text("1 / 0")
    assert SAID not in suite.runpytest_subprocess().outlines


@pytest.mark.parametrize(
    ("arguments", "by_default"),
    [
        ((), True),
        (("-q", "-x"), True),
        (("tests/unit",), False),
        (("-m", "not slow"), False),
        (("-k", "test_a"), False),
        (("--ignore", "tests/unit/test_two.py"), False),
        (("--deselect", "tests/unit/test_two.py"), False),
        (("--lf",), False),
    ],
)
def test_it_is_said_where_the_settings_alone_chose_the_tests(
    suite: pytest.Pytester, arguments: tuple[str, ...], by_default: bool
) -> None:
    assert selects_by_default(suite.parseconfig(*arguments)) == by_default


def test_what_is_left_is_run_by_ci(pytestconfig: pytest.Config) -> None:
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    missed = left_out(pytestconfig)
    assert missed
    for what in missed:
        assert f"uv run pytest {what.replace('tests marked', '-m')}" in steps

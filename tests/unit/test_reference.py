"""The table of parameters says what the models say."""

from transferline import config, reference, sections


def _row(section: type, key: str) -> reference.Parameter:
    (found,) = [parameter for parameter in reference.parameters(section) if parameter.key == key]
    return found


def test_every_section_has_a_heading_in_order() -> None:
    headings = [line[5:] for line in reference.markdown().splitlines() if line.startswith("#### ")]
    assert headings == [*config.SECTIONS, "augment.policy"]


def test_bounds_default_and_description_are_shown() -> None:
    assert _row(sections.Model, "dropout") == (
        "dropout",
        "number, >= 0, < 1",
        "`0.2`",
        "dropout before each layer of the head",
    )


def test_choices_are_shown() -> None:
    assert _row(sections.Model, "resize").kind == "`squash`, `crop`, `pad`"
    assert _row(sections.Fit, "nesterov").kind == "`true`, `false`"


def test_null_is_a_value_like_others() -> None:
    size = _row(sections.Model, "input_size")
    assert (size.kind, size.default) == ("whole number or `null`, >= 32, <= 1024", "`null`")


def test_models_within_a_section_become_dotted_keys_with_the_defaults_that_hold_there() -> None:
    assert _row(sections.Tune, "search.lr.low").default == "`0.0003`"
    assert _row(sections.Data, "split.train").default == "`0.7`"


def test_lists_and_ranges_are_shown() -> None:
    sizes = _row(sections.Tune, "search.batch_size")
    assert (sizes.kind, sizes.default) == ("list of whole numbers", "`[16, 32, 64]`")
    assert "| `rotation: degrees` | [low, high] | `[-10, 10]` |" in reference.markdown()


def test_every_parameter_says_what_it_means() -> None:
    rows = [line for line in reference.markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.split("|")[4].strip() == ""] == []

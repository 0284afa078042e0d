"""The table of parameters says what the models say."""

from transferline import config, fitting, on_demand, reference, sections, tuning


def _row(section: type, key: str) -> reference.Parameter:
    (found,) = [parameter for parameter in reference.parameters(section) if parameter.key == key]
    return found


def test_every_section_has_a_heading_in_order() -> None:
    headings = [line[5:] for line in reference.markdown().splitlines() if line.startswith("#### ")]
    before = headings.index("tune")
    assert headings.pop(before - 1) == "train and finetune"
    assert headings == [*config.SECTIONS, "augment.policy"]


def _table(heading: str) -> list[str]:
    """Its rows, from the key's name on."""
    text = reference.markdown().split(f"#### {heading}\n")[1].split("####")[0]
    return [line.removeprefix("| `") for line in text.splitlines() if line.startswith("| `")]


def test_what_the_loops_share_is_said_once_and_what_is_their_own_with_them() -> None:
    shared, own = _table("train and finetune"), {name: _table(name) for name in ("train", "finetune")}
    assert [row for row in shared if any(row in rows for rows in own.values())] == []
    assert [row.split("`")[0] for row in own["train"]] == ["epochs"]
    assert [row.split("`")[0] for row in own["finetune"]] == ["refit", "freezing", "unfreeze_epochs"]
    for name, model in (("train", fitting.Train), ("finetune", fitting.Finetune)):
        said = {row.split("`")[0] for row in [*shared, *own[name]]}
        assert said == {parameter.key for parameter in reference.parameters(model)}


def test_all_that_may_be_searched_is_named_with_the_form_it_takes() -> None:
    text = reference.markdown()
    start = text.index("`search` also takes")
    numbers, lists = text[start : text.index("\n", start)].split("as `{low, high, log}`")
    for key in tuning.SEARCHED:
        assert (f"`{key}`" in numbers) != (f"`{key}`" in lists), key
    assert "`layer_decay`" in numbers
    assert "`optimizer`" in lists


def test_bounds_default_and_description_are_shown() -> None:
    assert _row(sections.Model, "dropout") == (
        "dropout",
        "number, >= 0, < 1",
        "`0.2`",
        "dropout before each layer of the head",
    )


def test_choices_are_shown() -> None:
    assert _row(sections.Model, "resize").kind == "`squash`, `crop`, `pad`"
    assert _row(fitting.Fit, "nesterov").kind == "`true`, `false`"


def test_null_is_a_value_like_others() -> None:
    size = _row(sections.Model, "input_size")
    assert (size.kind, size.default) == ("whole number or `null`, >= 32, <= 1024", "`null`")


def test_models_within_a_section_become_dotted_keys_with_the_defaults_that_hold_there() -> None:
    assert _row(tuning.Tune, "search.lr.low").default == "`0.0001`"
    assert _row(sections.Data, "split.train").default == "`0.7`"


def test_lists_and_ranges_are_shown() -> None:
    sizes = _row(tuning.Tune, "search.batch_size")
    assert (sizes.kind, sizes.default) == ("list of whole numbers", "`[8, 16, 32]`")
    names = _row(on_demand.Compare, "backbones")
    assert (names.kind, names.default) == (
        "list of names",
        "`[efficientnet_lite0, efficientnet_lite1, efficientnet_lite2]`",
    )
    assert "| `rotation: degrees` | [low, high] | `[-10, 10]` |" in reference.markdown()
    assert "| `rand_augment: exclude` | list of `identity`, `shear_x`, " in reference.markdown()


def test_every_parameter_says_what_it_means() -> None:
    rows = [line for line in reference.markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.split("|")[4].strip() == ""] == []

"""params.yaml: what is right is loaded, every mistake is one message with the key and the nearest right value."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from transferline import config, sections
from transferline.errors import UserError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def _mistake(path: Path) -> tuple[str, str]:
    """What is wrong, without the file's name, and the fix."""
    with pytest.raises(UserError) as caught:
        config.load("seed", path=path)
    return caught.value.what.replace(f"{path}", "params.yaml"), caught.value.fix


def test_the_defaults_are_valid(write: Write) -> None:
    params = config.load(path=write(""))
    assert params.seed == sections.DEFAULT_SEED
    assert params.model.backbone == "efficientnet_lite0"
    assert list(vars(params)) == list(config.SECTIONS)


def test_a_section_without_keys_has_its_defaults(write: Write) -> None:
    assert config.load("prepare", path=write("train:\nprepare:\n")).prepare == sections.Prepare()


def test_the_projects_own_params_are_valid() -> None:
    config.load(path=Path(__file__).parents[2] / "params.yaml")


def test_given_values_are_read(write: Write) -> None:
    params = config.load("seed", "finetune", path=write("seed: 7\nfinetune: {epochs: 9, early_stopping: null}"))
    assert (params.seed, params.finetune.epochs, params.finetune.early_stopping) == (7, 9, None)


def test_scientific_notation_is_a_number(write: Write) -> None:
    params = config.load("finetune", path=write("finetune: {weight_decay: 1e-3}"))
    assert params.finetune.weight_decay == 0.001


def test_a_whole_number_will_do_for_a_number(write: Write) -> None:
    assert config.load("finetune", path=write("finetune: {gradient_clip: 2}")).finetune.gradient_clip == 2.0


def test_a_section_not_asked_for_is_an_attribute_error(write: Write) -> None:
    params = config.load("seed", "model", path=write(""))
    with pytest.raises(AttributeError, match="data"):
        _ = params.data


def test_a_section_is_frozen(write: Write) -> None:
    params = config.load("model", path=write(""))
    with pytest.raises(ValidationError, match="frozen"):
        params.model.dropout = 0.5


def test_resolved_holds_the_sections_asked_for_in_plain_types(write: Write) -> None:
    params = config.load("seed", "augment", path=write("augment: {policy: [{name: rotation}]}"))
    resolved = params.resolved()
    assert list(resolved) == ["seed", "augment"]
    assert resolved["augment"]["policy"] == [{"name": "rotation", "enabled": True, "p": 1.0, "degrees": [-10.0, 10.0]}]


def test_a_mistake_in_a_section_not_asked_for_is_refused_too(write: Write) -> None:
    assert _mistake(write("export: {opset: 99}"))[0] == "params.yaml: export.opset: 99 is out of range"


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("sed: 1", "unknown section 'sed'", "did you mean 'seed'?"),
        ("zzz: 1", "unknown section 'zzz'", "choose one of: activations, augment, compare, data"),
        ("data: {rot: x}", "data: unknown key 'rot'", "did you mean 'root'?"),
        ("data: {split: {trian: 0.7}}", "data.split: unknown key 'trian'", "did you mean 'train'?"),
        ("model: {3: 1}", "model: unknown key '3'", "choose one of: backbone, dropout"),
        (
            "tune: {search: {lr: {lo: 1, high: 2}}}",
            "tune.search.lr: unknown key 'lo'",
            "did you mean 'low'?",
        ),
        ("tune: {search: {lr: {low: 1}}}", "tune.search.lr: 'high' is missing", "add it"),
    ],
)
def test_a_wrong_key_is_named_with_the_nearest_right_one(write: Write, text: str, what: str, fix: str) -> None:
    wrong, mend = _mistake(write(text))
    assert wrong == f"params.yaml: {what}"
    assert mend.startswith(fix)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("seed: abc", "seed: expected a whole number, got 'abc'"),
        ("seed: true", "seed: expected a whole number, got true"),
        ("seed: null", "seed: expected a whole number, got null"),
        ("seed: 4.0", "seed: expected a whole number, got 4.0"),
        ("finetune: {epochs: '3'}", "finetune.epochs: expected a whole number or 'auto', got '3'"),
        ("finetune: {nesterov: yes}", "finetune.nesterov: expected true or false, got 'yes'"),
        ("finetune: {l1: low}", "finetune.l1: expected a number, got 'low'"),
        ("finetune: {l1: .nan}", "finetune.l1: expected a finite number, got NaN"),
        ("finetune: {early_stopping: no}", "finetune.early_stopping: expected a whole number, got 'no'"),
        ("finetune: {devices: many}", "finetune.devices: expected a whole number or 'auto', got 'many'"),
        ("data: {root: 3}", "data.root: expected text, got 3"),
        ("data: {root: ''}", "data.root: expected some text, got ''"),
        ("data: sample", "data: expected keys and values, got 'sample'"),
        ("tune: {search: {batch_size: 16}}", "tune.search.batch_size: expected a list, got 16"),
        ("tune: {search: {batch_size: []}}", "tune.search.batch_size: expected at least 1 value, got []"),
        ("tune: {search: {batch_size: [8, x]}}", "tune.search.batch_size[1]: expected a whole number, got 'x'"),
        ("seed: 2001-01-01", 'seed: expected a whole number, got "2001-01-01"'),
    ],
)
def test_a_wrong_type_says_what_was_expected(write: Write, text: str, what: str) -> None:
    assert _mistake(write(text)) == (f"params.yaml: {what}", "see the README's table of parameters")


def test_a_long_wrong_value_is_cut(write: Write) -> None:
    what, _ = _mistake(write(f"seed: {list(range(1000))}"))
    assert what.endswith("...")
    assert len(what) < 120


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("seed: -1", "seed: -1 is out of range", "the nearest right value is 0"),
        ("seed: 4294967296", "seed: 4294967296 is out of range", "the nearest right value is 4294967295"),
        ("model: {input_size: 10}", "model.input_size: 10 is out of range", "the nearest right value is 32"),
        ("register: {max_ece: 10}", "register.max_ece: 10 is out of range", "the nearest right value is 1"),
        ("model: {dropout: 1}", "model.dropout: 1 is out of range", "it must be below 1"),
        ("finetune: {gradient_clip: 0}", "finetune.gradient_clip: 0 is out of range", "it must be above 0"),
    ],
)
def test_out_of_range_names_the_nearest_right_value(write: Write, text: str, what: str, fix: str) -> None:
    assert _mistake(write(text)) == (f"params.yaml: {what}", fix)


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("model: {resize: sqash}", "model.resize: 'sqash' is not known", "did you mean 'squash'?"),
        ("model: {resize: 3}", "model.resize: 3 is not known", "choose one of: crop, pad, squash"),
        ("train: {loss: null}", "train.loss: null is not known", "choose one of: cross_entropy, focal"),
        ("train: {optimizer: adamv}", "train.optimizer: 'adamv' is not known", "did you mean 'adam'?"),
        ("train: {precision: bf16}", "train.precision: 'bf16' is not known", "did you mean 'bf16-mixed'?"),
    ],
)
def test_an_unknown_choice_names_the_nearest_one(write: Write, text: str, what: str, fix: str) -> None:
    assert _mistake(write(text)) == (f"params.yaml: {what}", fix)


def test_of_several_mistakes_the_first_of_the_table_is_told(write: Write) -> None:
    what, _ = _mistake(write("model: {dropout: 2, resize: x}\nexport: {opset: 1}"))
    assert what == "params.yaml: model.resize: 'x' is not known"


@pytest.mark.parametrize(
    ("text", "line"),
    [("seed: 1\ndata: [1", 2), ("seed: 1\nseed: 2", 2), ("seed: 1\n\tdata: 2", 2), ("data:\n  root: x\n   y: 2", 3)],
)
def test_bad_yaml_names_the_line(write: Write, text: str, line: int) -> None:
    what, fix = _mistake(write(text))
    assert what.startswith(f"params.yaml, line {line}: not valid YAML: ")
    assert fix == "mend that line"


def test_a_control_character_is_named(write: Write) -> None:
    assert "U+0001" in _mistake(write("seed: \x01"))[0]


@pytest.mark.parametrize("text", ["- 1", "hello"])
def test_a_document_without_keys_is_refused(write: Write, text: str) -> None:
    assert _mistake(write(text)) == ("params.yaml holds no sections", "write keys such as 'seed: 42'")


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"seed: \xff\xfe")
    assert _mistake(path)[0] == "params.yaml is not UTF-8 text"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    what, fix = _mistake(tmp_path / "params.yaml")
    assert what == "params.yaml is missing"
    assert "root of the project" in fix


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    assert _mistake(tmp_path)[0] == "params.yaml cannot be read: Is a directory"

"""What a stage reads is compared with what the stage before says it wrote."""

import json
from pathlib import Path

import pytest

from transferline import artifacts
from transferline.artifacts import ARRAYS, BEST, HEAD, TRAINING
from transferline.errors import UserError
from transferline.tracking import checks


@pytest.fixture(autouse=True)
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays, best and head, as the stages before finetune leave them."""
    monkeypatch.chdir(tmp_path)
    for path in (
        ARRAYS / "train/images.npy",
        ARRAYS / "val/images.npy",
        ARRAYS / "test/images.npy",
        HEAD / "model.json",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))
    (ARRAYS / "classes.json").write_text("[]")
    artifacts.write_json(BEST, {"lr": 0.1})
    for stage in ("augment", "tune", "train"):
        artifacts.write_run(artifacts.RunRecord(stage, "run", "parent", {}, checks.output_hashes(stage)))


def inputs() -> dict[str, str]:
    return checks.input_hashes("finetune", [*TRAINING, HEAD, BEST])


def test_what_is_as_it_was_written_passes_with_its_hashes():
    assert inputs() == {path.as_posix(): artifacts.sha256(path) for path in (*TRAINING, HEAD, BEST)}


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        (ARRAYS / "val/images.npy", "augment"),
        (ARRAYS / "classes.json", "augment"),
        (BEST, "tune"),
        (HEAD / "model.json", "train"),
    ],
)
@pytest.mark.parametrize("fault", ["flipped", "truncated", "removed"])
def test_a_changed_or_missing_file_is_named_with_its_stage_and_what_mends_it(file, stage, fault):
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    if fault == "removed":
        file.unlink()
    else:
        file.write_bytes(data if fault == "flipped" else data[:-1])
    with pytest.raises(UserError) as caught:
        inputs()
    how = "is not there as" if fault == "removed" else "is not as"
    assert caught.value.what == f"{file} {how} {stage} wrote it"
    assert "'dvc repro'" in caught.value.fix


def test_several_are_one_message():
    for file in sorted(path for path in ARRAYS.rglob("*") if path.is_file()):
        file.write_text("x")
    with pytest.raises(UserError, match=r"^data/augmented/classes.json .* wrote it, nor are 2 more\n"):
        inputs()


def test_what_the_stage_does_not_read_is_not_its_affair():
    (ARRAYS / "test/images.npy").write_text("changed")
    Path("data/augmentedly").mkdir()
    assert inputs()


def test_a_later_stage_s_record_and_its_own_are_not_asked():
    wrong = {(HEAD / "model.json").as_posix(): "0"}
    for stage in ("finetune", "evaluate"):
        artifacts.write_run(artifacts.RunRecord(stage, "run", "parent", {}, wrong))
    assert inputs()


def test_a_stage_beside_the_line_is_checked_too():
    (ARRAYS / "val/images.npy").write_text("changed")
    with pytest.raises(UserError, match="augment wrote it"):
        checks.input_hashes("lr_find", TRAINING)


def test_a_record_of_before_outputs_were_kept_asks_nothing():
    Path("runs/train.json").write_text(json.dumps({"stage": "train", "run_id": "r", "parent_id": "p", "inputs": {}}))
    (HEAD / "model.json").write_text("changed")
    assert inputs()


def test_outputs_are_listed_file_by_file_where_they_exist():
    assert set(checks.output_hashes("augment")) == {
        "data/augmented/classes.json",
        *(f"data/augmented/{split}/images.npy" for split in artifacts.SPLITS),
    }
    assert checks.output_hashes("fetch") == checks.output_hashes("prepare") == {}

"""A disk that fills up in the middle of each write: one message, the old file or none, and no temporary."""

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.faults.disks import FULL, PAGE, READ_ONLY, Disk, forbidden, small_disk
from tests.faults.writers import WRITERS, Write, images
from transferline import artifacts
from transferline.artifacts import Arrays, ModelCard
from transferline.data import arrays, clean, manifest, sources
from transferline.errors import UserError, as_user_error
from transferline.model import classifier
from transferline.model.activations import Cache
from transferline.sections import Activations, Data, Prepare
from transferline.tracking import store


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with small_disk(tmp_path_factory.mktemp("disk") / "small") as made:
        yield made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(write: Write, folder: Path, reason: str) -> UserError:
    """The error; it names what was to be written, by the name that it will have."""
    with pytest.raises(UserError) as caught:
        write()
    what = caught.value.what
    assert re.fullmatch(rf"{re.escape(str(folder))}\S* cannot be written: {reason}.*", what), what
    assert not re.search(r"/\.[^/]*\d", what), f"a temporary name: {what}"
    assert "'dvc repro' then goes on" in caught.value.fix
    return caught.value


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_or_nothing(name: str, disk: Disk, tmp_path: Path) -> None:
    folder = disk.root / name
    write = WRITERS[name](folder, tmp_path)
    write()
    whole = contents(folder)
    largest = max(map(len, whole.values()))
    for leave in sorted({0, PAGE, largest // 2 // PAGE * PAGE}):
        if leave >= largest:
            continue
        with disk.full(leave):
            refused(write, folder, FULL)
        assert contents(folder) == whole
    for file in whole:
        (folder / file).unlink()
    with disk.full():
        refused(write, folder, FULL)
    assert contents(folder) == {}
    write()
    assert contents(folder) == whole


@pytest.mark.parametrize("name", ["manifest", "augment", "model", "evaluate_picture", "run_record"])
def test_what_may_not_be_written_to_stays_as_it_is(name: str, disk: Disk, tmp_path: Path) -> None:
    folder = disk.root / f"{name}_read_only"
    write = WRITERS[name](folder, tmp_path)
    write()
    whole = contents(folder)
    with disk.read_only():
        refused(write, folder, READ_ONLY)
        assert contents(folder) == whole
    write()


@pytest.mark.parametrize("name", ["augment", "prepare_picture"])
def test_permission_that_is_denied_is_told_from_a_read_only_disk(name: str) -> None:
    """In a folder below which nothing is closed to others, as pytest's is."""
    with tempfile.TemporaryDirectory() as place:
        root, spare = Path(place) / "project", Path(place) / "spare"
        root.mkdir()
        Path(place).chmod(0o755)
        write = WRITERS[name](root / name, spare)
        write()
        whole = contents(root)
        with forbidden(root):
            assert f"make {root / name} yours" in refused(write, root / name, "permission is denied").fix
            assert contents(root) == whole
        write()


def test_the_users_folder_may_be_read_only(disk: Disk, tmp_path: Path) -> None:
    root = disk.root / "own"
    rows = images(root, 6)
    recipe = arrays.Recipe(size=32, fit="squash", views=1, policy=(), seed=1)
    with disk.read_only():
        layout = sources.scan(root, None)
        prepared = manifest.build(layout, Data().split, Prepare(), 1)
        arrays.write(rows, root, recipe, 0, tmp_path / "augmented")
    assert [row.path for row in prepared.rows] == sorted(row.path for row in rows)
    assert len(artifacts.read_arrays("train", tmp_path / "augmented").images) == 2


def test_a_full_folder_for_temporary_files_is_named(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = images(tmp_path / "own", 6)
    recipe = arrays.Recipe(size=224, fit="squash", views=0, policy=(), seed=1)
    monkeypatch.setattr(tempfile, "tempdir", str(disk.root))
    with disk.full(PAGE), pytest.raises(UserError, match=rf"{disk.root}/\S+ cannot be written: {FULL}") as caught:
        clean.taken(rows, tmp_path / "own", recipe, 0, limit=6, splits=("train",))
    assert "TMPDIR" in caught.value.fix or not disk.mounted
    assert not list(disk.root.glob("tmp*"))
    assert len(clean.taken(rows, tmp_path / "own", recipe, 0, limit=6, splits=("train",)).images) == 2


def test_activations_are_not_kept_where_nothing_can_be_written(
    disk: Disk, colour_arrays: Callable[..., Arrays], capsys: pytest.CaptureFixture[str]
) -> None:
    card = ModelCard("mobilenet_v3_small", ["a", "b", "c"], 32, "squash", [0.5] * 3, [0.5] * 3, 0.0)
    cache = Cache(Activations(), disk.root / ".cache")
    (disk.root / ".cache").mkdir()
    with disk.read_only():
        assert cache.open(classifier.build(card, "none", 0), colour_arrays(6), "digest", [3], "train") == {}
    said = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"train: activations are not kept \({READ_ONLY}\): every epoch runs the frozen blocks", said)


def test_a_store_of_runs_that_is_read_only_is_named(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(disk.root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with disk.read_only(), pytest.raises(OSError, match="mlruns") as caught:
        store._lock()
    assert re.match(rf"{disk.root}/mlruns: {READ_ONLY}\n", str(as_user_error(caught.value)))


def test_mlflow_meeting_the_end_of_the_disk_is_a_message(disk: Disk, tmp_path: Path) -> None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    (tmp_path / "reports").mkdir()
    for number in range(3):
        (tmp_path / "reports" / f"{number}.png").write_bytes(bytes(3 * PAGE))
    store = LocalArtifactRepository((disk.root / "mlruns").as_uri())
    with disk.full(4 * PAGE if disk.mounted else PAGE), pytest.raises(OSError, match=r"\[Errno") as caught:
        store.log_artifacts(str(tmp_path / "reports"), "reports")
    message = str(as_user_error(caught.value))
    assert re.search(FULL, message), message


def test_a_large_folder_does_not_fill_up_in_silence(disk: Disk) -> None:
    """numpy's save would lose the reason, and a memory map would end the process by SIGBUS."""
    path = disk.root / "large" / "images.npy"
    values = np.zeros((64, PAGE), np.uint8)
    for leave in (0, PAGE, 16 * PAGE, 63 * PAGE):
        with disk.full(leave):
            refused(lambda: artifacts.write_array(path, values), path.parent, FULL)
        assert contents(path.parent) == {}
    artifacts.write_array(path, values)
    np.save(path.with_name("numpy.npy"), values)
    assert path.read_bytes() == path.with_name("numpy.npy").read_bytes()

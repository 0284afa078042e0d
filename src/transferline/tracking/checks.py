"""What a stage reads is what an earlier one wrote: compared, file by file, before anything is made of it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from transferline import artifacts
from transferline.errors import UserError
from transferline.tracking import lineage


def input_hashes(stage: str, inputs: Sequence[Path]) -> dict[str, str]:
    """path -> sha256 of each input, a folder as a whole.

    Raises:
        UserError: where a file among them is missing, or is not as the record of the stage that wrote it says.
    """
    hashes = artifacts.file_hashes(inputs)
    _compare(hashes, lineage.earlier(stage), {path.as_posix() for path in inputs})
    return {path.as_posix(): artifacts.folded(path, hashes) for path in inputs}


def output_hashes(stage: str) -> dict[str, str]:
    """path -> sha256 of each file that later stages read of what this one wrote."""
    return artifacts.file_hashes(artifacts.PRODUCED.get(stage, ()))


def _compare(hashes: Mapping[str, str], records: Iterable[artifacts.RunRecord], inputs: set[str]) -> None:
    for record in records:
        wrong = [
            file
            for file, digest in record.outputs.items()
            if hashes.get(file) != digest and not inputs.isdisjoint(_places(file))
        ]
        if wrong:
            for file in wrong:
                artifacts.distrust(Path(file))
            file, more = wrong[0], f", nor are {len(wrong) - 1} more" if len(wrong) > 1 else ""
            what = "is not as" if file in hashes else "is not there as"
            raise UserError(
                f"{file} {what} {record.stage} wrote it{more}", f"'dvc repro' has {record.stage} make it again"
            )


def _places(file: str) -> list[str]:
    """The file's own path, and those of the folders it lies in."""
    path = PurePosixPath(file)
    return [path.as_posix(), *(folder.as_posix() for folder in path.parents)]

"""fetch's work: lay out the embedded sample, or a torchvision data set, as class folders."""

import shutil
from pathlib import Path

from rich.progress import track

from transferline import sections
from transferline.artifacts import SAMPLE
from transferline.data.folders import replaced
from transferline.data.sources import require_folder
from transferline.errors import UserError


def fetch(data: sections.Data, cache: Path, folder: Path = SAMPLE) -> int:
    """Fill `folder` with what `data.root` asks for; return the number of images.

    Where `data.root` is a folder of the user's own, `folder` is left empty.

    Args:
        cache: where torchvision keeps its downloads.

    Raises:
        UserError: the user's folder is missing, or the data set is unknown or cannot be had.
    """
    own = Path(data.root).resolve() != folder.resolve()
    if own and data.torchvision:
        raise UserError(
            f"data.root is '{data.root}', and data.torchvision is '{data.torchvision}': one of them is too many",
            f"set data.root to {SAMPLE} to use the data set, or data.torchvision to null",
        )
    if own:
        require_folder(Path(data.root))
    with replaced(folder) as partial:
        if own:
            return 0
        if data.torchvision:
            from transferline.data import torchvision_sets  # 14 seconds that only this case pays for

            return torchvision_sets.lay_out(data.torchvision, cache, partial)
        return _lay_out_textile(partial)


def _lay_out_textile(folder: Path) -> int:
    """Simulated textile surfaces for visual inspection (Megahed et al. 2025, arXiv 2501.12596)."""
    from conformal_clip_data import textile_simulated_root

    files = sorted(Path(textile_simulated_root()).glob("*/*.jpg"))
    for file in track(files, description="copying the textile sample"):
        target = folder / file.parent.name / file.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    return len(files)

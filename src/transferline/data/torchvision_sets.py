"""A torchvision data set laid out as PNG files in class folders, under its own split where it has one."""

import inspect
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import track
from torchvision import datasets

from transferline import system
from transferline.artifacts import SplitName
from transferline.data.archives import guarded
from transferline.errors import UserError, nearest

# What torchvision's constructors call each split, in order of preference.
_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "trainval"),
    "val": ("val", "valid"),
    "test": ("test",),
}


def lay_out(name: str, cache: Path, folder: Path) -> int:
    """Download data set `name` into `cache` where need be and write its images; return their number.

    They become `folder`/<split>/<class>/<number>.png, without <split> where the set has none.

    Raises:
        UserError: the name is unknown, the set is not one of labelled images, or it cannot be had.
    """
    parts = _open(name, _constructor(name), cache)
    return sum(_write(name, part, folder / split) for split, part in parts.items())


def _constructor(name: str) -> Callable[..., Any]:
    known: dict[str, Callable[..., Any]] = {
        each: kind
        for each in datasets.__all__
        if isinstance(kind := getattr(datasets, each), type) and issubclass(kind, datasets.VisionDataset)
    }
    if name not in known:
        raise UserError(f"data.torchvision: '{name}' is not known", nearest(name, known))
    return known[name]


def _open(name: str, constructor: Callable[..., Any], cache: Path) -> dict[str, Any]:
    """The data set's splits by folder name; one under the empty name where it has none."""
    accepted = inspect.signature(constructor).parameters
    place: dict[str, Any] = {"root": str(cache)} if "root" in accepted else {}
    if "download" in accepted:
        place["download"] = True
    try:
        with guarded():
            if "train" in accepted:
                return {"train": constructor(**place, train=True), "test": constructor(**place, train=False)}
            if "split" in accepted:
                return _open_splits(constructor, place)
            return {"": constructor(**place)}
    except (tarfile.TarError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
        raise UserError(
            f"data.torchvision: the files of '{name}' under {cache} are damaged or not what they should be: {error}",
            f"remove {cache} and run 'dvc repro fetch' again: they are then downloaded anew",
        ) from None
    except (OSError, RuntimeError) as error:
        if system.untranslated(error):  # as a full disk
            raise
        raise UserError(
            f"data.torchvision: '{name}' cannot be had: {error}",
            f"connect to the network, or place the set's files under {cache}, "
            "or set data.torchvision to null and data.root to a folder of your own",
        ) from None
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise UserError(
            f"data.torchvision: '{name}' cannot be laid out: {error}",
            "lay it out yourself as a folder per class, and set data.root to it",
        ) from None


def _open_splits(constructor: Callable[..., Any], place: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split, names in _NAMES.items():
        for own in names:
            try:
                found[split] = constructor(**place, split=own)
                break
            except ValueError:  # torchvision's word for a split that the set does not have
                continue
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")  # prepare then takes val out of train
    if not {"train", "test"} <= set(found):
        raise ValueError("it has no train and test split")
    return found


def _write(name: str, part: Any, folder: Path) -> int:
    folders: dict[int, Path] = {}
    digits = len(str(len(part)))
    for index in track(range(len(part)), description=f"writing {name} {folder.name}"):
        image, label = part[index]
        if not isinstance(image, Image.Image) or not isinstance(label, int):
            raise UserError(
                f"data.torchvision: '{name}' is not a set of images with one class each", "choose another, as CIFAR10"
            )
        if label not in folders:
            folders[label] = folder / _folder_name(getattr(part, "classes", []), label)
            folders[label].mkdir(parents=True, exist_ok=True)
        image.save(folders[label] / f"{index:0{digits}}.png")
    return len(part)


def _folder_name(classes: Sequence[Any], label: int) -> str:
    """The class's name with what a file system might not bear replaced; its number where it has none."""
    safe = [re.sub(r"[^\w-]+", "_", str(each)).strip("_") for each in classes]
    if not 0 <= label < len(safe) or not safe[label]:
        return str(label)
    return safe[label] if safe.count(safe[label]) == 1 else f"{safe[label]}_{label}"

"""params.yaml -> frozen pydantic models, with one clear message per mistake."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from transferline import fitting, on_demand, sections, tuning
from transferline.errors import UserError, nearest
from transferline.mistakes import explain

PARAMS = Path("params.yaml")


class Params:
    """The sections a stage asked `load` for; any other is an AttributeError.

    A stage can so not read what dvc.yaml does not list as its params.
    """

    seed: int
    data: sections.Data
    model: sections.Model
    activations: sections.Activations
    tracking: sections.Tracking
    prepare: sections.Prepare
    augment: sections.Augment
    tune: tuning.Tune
    train: fitting.Train
    finetune: fitting.Finetune
    evaluate: sections.Evaluate
    export: sections.Export
    register: sections.Register
    compare: on_demand.Compare
    lr_find: on_demand.LrFind

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults included, as plain JSON types: what a run logs as its parameters."""
        return {
            name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            for name, value in vars(self).items()
        }


SECTIONS: dict[str, Any] = Params.__annotations__


def load(*names: str, path: Path = PARAMS) -> Params:
    """Read and check the whole of params.yaml; return the sections named (all where none is).

    Raises:
        UserError: on the first mistake in the file, whichever section it is in.
    """
    document = _read(path)
    for key in document:
        if key not in SECTIONS:
            raise UserError(f"{path}: unknown section '{key}'", nearest(str(key), SECTIONS))
    params = Params()
    for name in SECTIONS:
        value = _section(name, document, path)
        if not names or name in names:
            setattr(params, name, value)
    return params


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "run from the root of the project, or restore it with git") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML: {error.problem}", "mend that line") from None
    except ReaderError as error:
        raise UserError(f"{path} holds U+{error.character:04X}, a character that YAML forbids", "remove it") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "it must be a file that you may read") from None
    if not isinstance(document, dict | None):
        raise UserError(f"{path} holds no sections", "write keys such as 'seed: 42'")
    return document or {}


def _section(name: str, document: Mapping[str, Any], path: Path) -> Any:
    kind = SECTIONS[name]
    if name == "seed":
        kind, given = sections.Seed, document.get("seed", sections.DEFAULT_SEED)
    else:
        given = document.get(name)
        given = {} if given is None else given
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        mistake = explain(name, kind, error)
        raise UserError(f"{path}: {mistake.what}", mistake.fix) from None

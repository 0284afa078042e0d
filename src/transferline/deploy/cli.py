"""The command line, `transferline`. Each command imports what it needs: predict never loads torch."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from transferline.errors import UserError, as_user_error


class _Group(TyperGroup):
    """A user's mistake, or a full disk, is one message on stderr and exit code 1, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            message = as_user_error(error)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Group,
    help="From a folder of images to a verified ONNX classifier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="An ONNX file that the export stage wrote.")],
    image: Annotated[list[str], typer.Argument(help="Image files, folders, or - for an image on standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    top: Annotated[int | None, typer.Option(min=1, help="Show the K likeliest classes of each image.")] = None,
) -> None:
    """Classify images. One that cannot be read is named on stderr, and the exit code is then 1."""
    from rich.console import Console
    from rich.progress import track

    from transferline.data.images import ImageError
    from transferline.deploy import answers, inputs
    from transferline.deploy.predictor import Predictor

    predictor = Predictor(model)
    rows, failed = [], False
    console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
    quiet = as_json or not console.is_terminal
    for given in track(inputs.expand(image), "predicting", console=console, transient=True, disable=quiet):
        try:
            answer = answers.answer(predictor, predictor.predict_file(given.source))
        except ImageError as error:
            console.print(f"error: {given.name}: {error}")
            failed = True
            continue
        if as_json:
            print(json.dumps({"image": given.name, **answer.as_json(top)}), flush=True)
        rows += [(given.name, name, probability) for name, probability in answer.shown(top)]
    if rows and not as_json:
        from transferline.deploy import display

        display.print_table(("image", "class" if predictor.thresholds is None else "label", ">probability"), rows)
    if failed:
        raise typer.Exit(1)


@app.command()
def check() -> None:
    """Validate params.yaml and the data folder, and show what a run of the line would do."""
    import shutil

    from transferline import config
    from transferline.data import sources
    from transferline.deploy import display, plan
    from transferline.model import backbones

    params = config.load()
    backbone = backbones.spec(params.model.backbone)
    root = _data_root(Path(params.data.root), params.data.torchvision)
    if root is None:
        print(f"params.yaml is valid; 'dvc repro fetch' downloads {params.data.torchvision}: check again after it")
        return
    made = plan.make(params, sources.scan(root, params.data.labels), backbone, shutil.disk_usage(Path.cwd()).free)
    display.print_plan(made, root)


def _data_root(root: Path, torchvision: str | None) -> Path | None:
    """The folder to plan on: where fetch has not laid the sample out yet, its source; None where that is far away."""
    from transferline.artifacts import SAMPLE

    if root.resolve() != SAMPLE.resolve() or (root.is_dir() and any(root.iterdir())):
        return root
    if torchvision:
        return None
    from conformal_clip_data import textile_simulated_root

    print(f"{root} does not exist yet: fetch will lay the sample out")
    return Path(textile_simulated_root())


@app.command()
def params() -> None:
    """Print every parameter of params.yaml as Markdown tables."""
    from transferline import reference

    print(reference.markdown(), end="")


@app.command()
def compare_backbones(
    names: Annotated[list[str] | None, typer.Argument(help="Instead of those that compare.backbones names.")] = None,
) -> None:
    """Compare backbones on the training images: a linear probe on frozen features, parameters, ONNX latency."""
    _run_script("compare", *(names or []))


@app.command()
def lr_find() -> None:
    """Suggest a learning rate: some steps at ever higher rates, and how the loss takes it (a range test)."""
    _run_script("lr_find")


@app.command()
def sync() -> None:
    """Send what stages kept in .cache/spool while MLflow was away."""
    _run_script("sync")


def _run_script(name: str, *arguments: str) -> None:
    """`python -m pipeline.<name>` of the project in the folder one is in: only scripts open runs."""
    import runpy

    script = Path("pipeline", f"{name}.py")
    if not (script.is_file() and Path("params.yaml").is_file()):
        raise UserError(
            f"{Path.cwd()} is no Transferline project: it lacks params.yaml or {script}",
            "change to the root of the project",
        )
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


@app.command("backbones")
def list_backbones(
    name: Annotated[list[str] | None, typer.Argument(help="Some alone; timm/NAME is any model of timm's.")] = None,
    blocks: Annotated[str | None, typer.Option(help="List the blocks of this one, as freeze_to names them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the backbones: what they cost at their own input size, and where their weights come from."""
    from rich.console import Console
    from rich.progress import track

    from transferline.deploy import catalogue, display
    from transferline.model import backbones

    if blocks:
        parts = catalogue.blocks(backbones.spec(blocks))
        if as_json:
            print(json.dumps(catalogue.as_records(parts)))
        else:
            display.print_blocks(parts)
        return
    names, console = name or list(backbones.REGISTRY), Console(stderr=True)
    quiet = not console.is_terminal
    bar = track(catalogue.entries(names), "measuring", len(names), console=console, transient=True, disable=quiet)
    rows = list(bar)
    if as_json:
        print(json.dumps(catalogue.as_records(rows)))
    else:
        display.print_backbones(rows)

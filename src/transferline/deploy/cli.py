"""The command line, `transferline`. Each command imports what it needs: predict never loads torch."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from transferline.errors import as_user_error


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

_MODEL = "An ONNX file that the export stage wrote, or a registered one: models:/NAME@ALIAS, models:/NAME/VERSION."
_Providers = Annotated[str | None, typer.Option(help="Of onnxruntime: cpu, cuda, tensorrt, or several as cuda,cpu.")]


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    image: Annotated[list[str], typer.Argument(help="Image files, folders, or - for an image on standard input.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    top: Annotated[int | None, typer.Option(min=1, help="Print the K likeliest classes of each image.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all answers to a .csv, .jsonl or .parquet file.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images of one size classified at once. [default: 1 on a CPU, else 32]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode and classify. [default: one a core]")
    ] = None,
    providers: _Providers = None,
) -> None:
    """Classify images. One that cannot be read is named on stderr, and the exit code is then 1."""
    from transferline.deploy import prediction

    options = prediction.Options(batch_size, threads, _names(providers), top, as_json, output)
    if not prediction.run(model, image, options):
        raise typer.Exit(1)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    *,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the model. [default: one a core]")] = None,
    providers: _Providers = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Images of a batch. [default: 32 on a GPU, 1 on a CPU]")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Batches at once. [default: one on a GPU, as many as cores on a CPU]")
    ] = None,
    max_wait_ms: Annotated[
        float | None, typer.Option(min=0, help="Longest wait of an image for others of its batch. [default: 5]")
    ] = None,
    queue: Annotated[
        int | None, typer.Option(min=1, help="Images taken at once; more are answered 503. [default: 256]")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Of a request. [default: 20000000]")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Of an image. [default: 50000000]")] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Of a request. [default: 32]")] = None,
    decoders: Annotated[int | None, typer.Option(min=1, help="Threads that decode. [default: 2]")] = None,
    timeout_s: Annotated[float | None, typer.Option(min=0.1, help="Longest wait for an answer. [default: 30]")] = None,
) -> None:
    """Serve a model over HTTP: POST images to /predict, or open the page in a browser."""
    from transferline.deploy.serve import command

    limits = {"max_batch": max_batch, "runs": runs, "max_wait_ms": max_wait_ms, "queue": queue}
    limits |= {"max_bytes": max_bytes, "max_pixels": max_pixels, "max_images": max_images}
    limits |= {"decoders": decoders, "timeout_s": timeout_s}
    command.serve(
        model,
        host,
        port,
        providers=_names(providers),
        threads=threads,
        settings={name: value for name, value in limits.items() if value is not None},
    )


def _names(providers: str | None) -> list[str] | None:
    return None if providers is None else [name.strip() for name in providers.split(",")]


@app.command()
def check() -> None:
    """Validate params.yaml and the data folder, and show what a run of the line would do."""
    import shutil

    from transferline import config
    from transferline.data import sources
    from transferline.deploy import display, plan, speed
    from transferline.model import backbones

    params = config.load()
    backbone = backbones.spec(params.model.backbone)
    root = _data_root(Path(params.data.root), params.data.torchvision)
    if root is None:
        print(f"params.yaml is valid; 'dvc repro fetch' downloads {params.data.torchvision}: check again after it")
        return
    made = plan.make(params, sources.scan(root, params.data.labels), backbone, shutil.disk_usage(Path.cwd()).free)
    display.print_plan(made, root)
    taken = speed.minutes(made, speed.forward_seconds(params, made.input_size))
    display.print_table(("stage", ">minutes, about"), [(stage, f"{spent:.1f}") for stage, spent in taken.items()])
    within = f"; tune.minutes asks for {params.tune.minutes:g} from tune on" if params.tune.minutes else ""
    print(f"about {sum(taken.values()):.0f} minutes in all, the search at its longest{within}")


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

    from transferline.deploy import scripts

    script = scripts.script(name)
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


@app.command()
def triton_repository(
    out: Annotated[Path, typer.Argument(help="A folder of Triton models; made where it is missing.")],
    model: Annotated[str, typer.Option(help=_MODEL)] = "models/onnx/model.onnx",
    name: Annotated[str, typer.Option(help="What clients ask for.")] = "transferline",
    *,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Images run at once, at most.")] = 32,
    max_queue_delay: Annotated[float, typer.Option(min=0, help="Milliseconds a request waits for others.")] = 5.0,
    kind: Annotated[str, typer.Option(help="Where it runs: auto, cpu or gpu.")] = "auto",
    instances: Annotated[int, typer.Option(min=1, help="Copies of the model that run at once.")] = 1,
    tensorrt: Annotated[bool, typer.Option("--tensorrt", help="Have TensorRT run what it takes (untried).")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what this command wrote there before.")] = False,
) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server: OUT/NAME, with version 1 of the model."""
    from transferline.deploy import models, triton

    options = triton.Options(max_batch_size, max_queue_delay, kind, instances, tensorrt)
    folder = triton.write(models.located(model), out, name, options, force=force)
    print(f"wrote {folder}: start it with tritonserver --model-repository={out}")


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

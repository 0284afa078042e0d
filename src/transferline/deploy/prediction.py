"""The work of `transferline predict`: from a model and the names of images to what is printed and written."""

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from transferline import cores
from transferline.data.images import ImageError
from transferline.deploy import inputs, models, outputs, screen, session, streaming
from transferline.deploy.inputs import Input
from transferline.deploy.predictor import Predictor
from transferline.deploy.streaming import Outcome, Sink

_BATCH_ON_GPU = 32


@dataclass(frozen=True)
class Options:
    """Of the command line.

    Attributes:
        batch_size: images of one size that are classified at once; None for what `plan` takes.
        threads: that decode and, on the CPU, classify; None for as many as there are cores.
        providers: of onnxruntime, in the order in which they are tried; None for what the predictor takes.
        top: how many classes of each image are printed; None for the answer alone.
        as_json: print JSON lines.
        output: a file for all answers; without it, or with `as_json`, they are printed.
    """

    batch_size: int | None = None
    threads: int | None = None
    providers: Sequence[str] | None = None
    top: int | None = None
    as_json: bool = False
    output: Path | None = None


@dataclass
class _Tally:
    done: int = 0
    failed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        images = "1 image" if self.done == 1 else f"{self.done} images"
        speed = f"{images} in {self.seconds:.1f} s, {self.done / self.seconds:.0f} images/s"
        return f"{speed}; {self.failed} could not be read" if self.failed else speed


def run(model: str, given: Sequence[str], options: Options) -> bool:
    """Answer, print and write; whether every image could be read.

    Raises:
        UserError: for a mistake in what is given; where the graph cannot be run; where the output cannot be written.
    """
    if options.output:
        outputs.require(options.output)
    found = inputs.expand(given)
    predictor = _opened(models.located(model), options.providers)
    chosen = plan(options, on_cpu=_on_cpu(predictor))
    console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
    try:
        with closing(streaming.answered(predictor, found, chosen)) as answers:
            tally = _pass_on(answers, predictor, given, options, console)
    except KeyboardInterrupt:
        console.print(f"stopped; {options.output} was not written" if options.output else "stopped")
        raise
    if options.output:
        console.print(f"{tally} -> {options.output}")
    elif tally.done > 1:
        console.print(str(tally))
    return not tally.failed


def plan(options: Options, *, on_cpu: bool) -> streaming.Plan:
    """Defaults: on the CPU a run on each core, of one image; elsewhere one run of 32, for which all cores decode.

    One thread more than that waits for the disk.
    """
    threads = options.threads or cores.usable()
    if on_cpu:
        return streaming.Plan(options.batch_size or 1, threads + 1, runs=threads)
    return streaming.Plan(options.batch_size or _BATCH_ON_GPU, threads + 1, runs=1)


def _opened(model: Path, providers: Sequence[str] | None) -> Predictor:
    """On the CPU with one core a run, for there are as many runs as cores.

    Images side by side take less time than one after the other on all cores (benchmarks/predict.py), and decoding
    needs what spinning threads would hold.
    """
    predictor = Predictor(model, providers=providers, threads=1, spinning=False)
    if not _on_cpu(predictor):  # what is left to the CPU there may have all of it
        predictor = Predictor(model, providers=providers, spinning=False)
    return predictor


def _on_cpu(predictor: Predictor) -> bool:
    return predictor.providers == [session.CPU]


def _pass_on(
    answers: Iterable[tuple[Input, Outcome]],
    predictor: Predictor,
    given: Sequence[str],
    options: Options,
    console: Console,
) -> _Tally:
    """Each answer to the file, which has its name once all are in it, and to the terminal."""
    tally, start, multilabel = _Tally(), time.perf_counter(), predictor.thresholds is not None
    bar = screen.Bar(given, console, quiet=not console.is_terminal or (options.as_json and sys.stdout.isatty()))
    with ExitStack() as stack:
        sinks: list[Sink] = []
        if options.output:
            opened = outputs.opened(options.output, predictor.classes, multilabel)
            sinks.append(stack.enter_context(opened))
        if options.as_json:
            sinks.append(screen.lines(options.top))
        elif not options.output:
            before = bar.end if sys.stdout.isatty() else lambda: None
            sinks.append(stack.enter_context(screen.tables(options.top, multilabel=multilabel, before=before)))
        stack.enter_context(bar.shown())
        for one, outcome in answers:
            for sink in sinks:
                sink(one, outcome)
            if isinstance(outcome, ImageError):
                console.print(f"error: {one.name}: {outcome}")
                tally.failed += 1
            tally.done += 1
            bar.advance()
        tally.seconds = time.perf_counter() - start
    return tally

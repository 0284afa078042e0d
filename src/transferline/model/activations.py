"""What frozen blocks give for each stored view, computed once and kept: freeze depth is a cache boundary.

With d blocks frozen, the first d are a fixed function, so every epoch and every trial can start behind them.
An entry lies in `.cache/activations/<key>/depth_<d>/`; the key is a hash of all that its values depend on.
"""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from rich.progress import track

from transferline import system
from transferline.artifacts import Arrays, project_root
from transferline.model.classifier import Classifier, pick_device
from transferline.model.engines import BATCH, EVERY, Array, Chosen, Prefix, Runner, choose, preferred
from transferline.model.stored import Entry, Stored, UnfitError, Writer, entries, open_entry, size
from transferline.sections import Activations

FORMAT = 4  # of an entry and of how it is computed; another one is another key
RESERVE = 1 << 29  # bytes of the disk that are left free


class Cache:
    """The entries in one folder, shared by every process of the project.

    Args:
        config: the section of that name.
        folder: where the entries lie; None: `.cache/activations/` of the project.
    """

    def __init__(self, config: Activations, folder: Path | None = None) -> None:
        self.config = config
        self.folder = folder or project_root() / ".cache" / "activations"
        # val is run by what train was; the classifier is kept, so that no other one gets its id
        self._engines: dict[tuple[int, str, tuple[int, ...], str], tuple[Classifier, Chosen]] = {}
        self._in_use: set[Path] = set()  # groups opened here: never evicted to make room for another

    def open(
        self,
        classifier: Classifier,
        arrays: Arrays,
        digest: str,
        depths: Collection[int],
        label: str,
        *,
        count: int | None = None,
    ) -> dict[int, Stored]:
        """The activations behind each of `depths`; what is not there is computed, in one pass for all.

        What does not fit the budget, the disk or the dtype is left out, and a line says so. Another process that
        computes the same is waited for.

        Args:
            classifier: its blocks are run in eval mode; left on the CPU.
            arrays: of one split.
            digest: hash of the arrays' bytes.
            depths: wanted; 0, in front of all blocks, has none; EVERY is what is pooled behind every block.
            label: starts each line, and the progress bar.
            count: of views that this classifier will be given in all, which decides the engine; None: those of
                `arrays`.
        """
        wanted = sorted({depth for depth in depths if depth != 0})
        if self.config.mode == "off" or not wanted:
            return {}
        engine = preferred(classifier, count or arrays.views, self.config.engine)
        group = self.folder / key(classifier, arrays, digest, self.config.dtype, engine)
        self._in_use.add(group)
        found: dict[int, Stored] = {}
        try:
            with _locked(
                group.with_suffix(".lock"), f"{label}: waiting for another process that computes the same activations"
            ):
                found |= {depth: stored for depth in wanted if (stored := open_entry(_place(group, depth)))}
                missing = [depth for depth in wanted if depth not in found]
                if missing:
                    found |= self._compute(group, missing, found, given=(classifier, arrays, engine), label=label)
        except (UnfitError, OSError) as error:
            refused = system.reason(system.code(error), self.folder)
            reason = refused[0].partition(" (")[0] if refused else error
            print(f"{label}: activations are not kept ({reason}): every epoch runs the frozen blocks", flush=True)
        finally:
            classifier.cpu()
        return dict(sorted(found.items()))

    def _compute(
        self,
        group: Path,
        depths: list[int],
        found: Mapping[int, Stored],
        *,
        given: tuple[Classifier, Arrays, Runner],
        label: str,
    ) -> dict[int, Stored]:
        """One run through the frozen blocks that writes every boundary for which there is room."""
        classifier, arrays, wanted = given
        leading = arrays.images.shape[:2]
        shapes = boundaries(classifier, depths, arrays.images[0, :1])
        new = {depth: Entry(depth, self.config.dtype, (*leading, *shapes[depth])) for depth in depths}
        fitting = self._make_room({depth: entry.bytes for depth, entry in new.items()})
        for depth in sorted(set(depths) - set(fitting)):
            print(
                f"{label}: the {new[depth].bytes / 1e9:.1f} GB behind depth {depth} do not fit (activations.max_gb is"
                f" {self.config.max_gb:g}, {shutil.disk_usage(self.folder).free / 1e9:.1f} GB of the disk are free):"
                " there, every epoch runs the frozen blocks",
                flush=True,
            )
        if not fitting:
            return {}
        source, engine = self._source(classifier, arrays, fitting, found, wanted)
        starts = range(0, len(source), BATCH)
        with ExitStack() as files:
            writers = [files.enter_context(Writer(_place(group, depth), new[depth])) for depth in fitting]
            for start in track(starts, description=f"{label}: frozen blocks, once, by {engine.name}"):
                for writer, values in zip(writers, engine.run(source[start : start + BATCH]), strict=True):
                    writer.write(values)
            for writer in writers:
                writer.finish(engine.name)
        made = {depth: open_entry(_place(group, depth), check=False) for depth in fitting}
        return {depth: stored for depth, stored in made.items() if stored}

    def _source(
        self, classifier: Classifier, arrays: Arrays, depths: list[int], found: Mapping[int, Stored], wanted: Runner
    ) -> tuple[Array, Chosen]:
        """The images, or the deepest shallower boundary that is there already where the values are the same either way.

        They are, where torch continues from float32. Less would be rounded twice, and onnxruntime fuses operations
        across a boundary: values would depend on what happened to be in the cache.
        """
        shallower = [depth for depth in found if 0 < depth < depths[0]]
        if wanted == "torch" and self.config.dtype == "float32" and shallower:
            start = max(shallower)
            values = found[start].values
            return values.reshape(-1, *values.shape[2:]), choose(Prefix(classifier, depths, start), wanted)
        known = (id(classifier), _weights_hash(classifier), tuple(depths), wanted)
        if known not in self._engines:
            self._engines[known] = classifier, choose(Prefix(classifier, depths), wanted)
        return arrays.images.reshape(-1, *arrays.images.shape[2:]), self._engines[known][1]

    def _make_room(self, needed: Mapping[int, int]) -> list[int]:
        """Evict what was used longest ago until what fits of `needed`, depth -> bytes, does; return those depths.

        What is pooled goes first, then deeper ones: they are small, and spare more work. What this process has opened
        stays.
        """
        with _locked(self.folder / "evict.lock", "activations: waiting for another process that makes room"):
            self._sweep()
            old = [entry for entry in entries(self.folder) if entry.parent not in self._in_use]
            kept = sum(map(size, entries(self.folder)))
            budget, free = self.config.max_gb * 1e9 - kept, shutil.disk_usage(self.folder).free - RESERVE
            evictable, total, fitting = sum(map(size, old)), 0, []
            for depth in sorted(needed, key=lambda depth: (depth != EVERY, -depth)):
                if total + needed[depth] <= min(budget, free) + evictable:
                    fitting.append(depth)
                    total += needed[depth]
            gained = 0
            while fitting and total > min(budget, free) + gained:
                gained += size(old[0])
                shutil.rmtree(old.pop(0))
        return sorted(fitting)

    def _sweep(self) -> None:
        """Take away what killed processes have left half-written: their locks are free."""
        for partial in self.folder.glob("*/.*"):
            if partial.parent not in self._in_use:
                with suppress(Timeout), FileLock(partial.parent.with_suffix(".lock"), timeout=0):
                    shutil.rmtree(partial, ignore_errors=True)


def key(classifier: Classifier, arrays: Arrays, digest: str, dtype: str, engine: Runner) -> str:
    """16 hex digits of a hash over what the values depend on, the depth aside."""
    card = classifier.card
    known = {
        "format": FORMAT,
        "backbone": card.backbone,
        "weights": _weights_hash(classifier),
        "pool": str(classifier.head.pool),
        "preprocessing": [card.mean, card.std, card.resize],
        "arrays": [digest, *arrays.images.shape],
        "dtype": dtype,
        "device": [pick_device().type, engine, torch.get_num_threads()],  # how sums are split among threads
        "versions": [importlib.metadata.version(name) for name in ("torch", "torchvision", "timm")],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def boundaries(classifier: Classifier, depths: list[int], view: Array) -> dict[int, tuple[int, ...]]:
    """The shape of a single view's activations behind each of `depths`, in ascending order.

    Args:
        view: uint8 [1, S, S, 3].
    """
    with torch.inference_mode():
        left = Prefix(classifier, depths).eval()(torch.from_numpy(view.copy()))
    return {depth: tuple(values.shape[1:]) for depth, values in zip(depths, left, strict=True)}


def _weights_hash(classifier: Classifier) -> str:
    digest = hashlib.sha256()
    for name, tensor in classifier.blocks.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _place(group: Path, depth: int) -> Path:
    return group / ("every_block" if depth == EVERY else f"depth_{depth:02d}")


@contextmanager
def _locked(path: Path, waiting: str) -> Iterator[None]:
    """Held by one process at a time; the system frees it when that one is killed. Says `waiting` where it must."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(waiting, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

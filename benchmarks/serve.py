"""`transferline serve` under load, against the bare onnxruntime session and against `mlflow models serve`.

    uv run python -m benchmarks.serve [MODEL [FOLDER]] [--requests 10000] [--round 1000] [--rounds 3]

In each round the bare session classifies decoded images, all processors its own, and then the server answers 1, 8 and
64 clients over loopback; the ratio is that of the server at 64 clients to the session at its fastest in the same round.
Then come as many requests as are asked for in one go, for the memory of the server. Every answer is compared with the
session's own for that image. The tables are printed; everything stands in `benchmarks/results/serve.json`. Exits with 1
where an answer was lost, refused or wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from rich.console import Console
from rich.progress import Progress

from benchmarks.load import Outcome, Spec
from tests.servers import HOST, Server, free_port, running, transferline_serve
from transferline import cores, errors
from transferline.artifacts import write_json
from transferline.data import images
from transferline.deploy import answers
from transferline.deploy.predictor import Predictor
from transferline.errors import UserError
from transferline.tracking import flavours

RESULTS = Path("benchmarks/results/serve.json")
LOADS = [("raw", 1), ("raw", 8), ("raw", 64), ("multipart", 64)]  # form of the body, clients
DISTINCT = 200  # images sent, over and over
BATCHES = (1, 8, 32)
BUSY = ("ms of processor an image, server", "client")
BARE_IMAGES = 256  # that the session classifies for a figure
WARM_UP = 128
PYFUNC = "transferline.pyfunc.loader"


class Bare:
    """The session alone, and the images decoded and as files; its answers are those that the servers must give."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.files, self.pixels = _images(folder)
        predictor = Predictor(model)
        calm = onnxruntime.SessionOptions()
        calm.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(model, providers=predictor.providers)
        self.sessions = {
            "": self.session,
            ", threads not spinning": onnxruntime.InferenceSession(model, calm, providers=predictor.providers),
        }
        found = [run(self.session, image[np.newaxis])[0] for image in self.pixels]
        self.answers = [answers.answer(predictor, row).as_json() for row in found]

    def measure(self) -> dict[str, dict[str, float]]:
        """Images per second, and milliseconds of processor an image, of each way to run it."""
        ways = {
            f"batches of {size}{note}": self._measured(session, self._decoded(size))
            for note, session in self.sessions.items()
            for size in BATCHES
        }
        return ways | {"batches of 1, decoding too": self._measured(self.session, self._read())}

    def _measured(self, session: Any, batches: Iterator[npt.NDArray[np.uint8]]) -> dict[str, float]:
        run(session, next(batches))
        start, cpu, count = time.perf_counter(), time.process_time(), 0
        while count < BARE_IMAGES:
            count += len(run(session, next(batches)))
        spent = 1000 * (time.process_time() - cpu) / count
        return {"rate": count / (time.perf_counter() - start), "cpu_ms": spent}

    def _decoded(self, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        while True:
            for first in range(0, len(self.pixels) - size + 1, size):
                yield self.pixels[first : first + size]

    def _read(self) -> Iterator[npt.NDArray[np.uint8]]:
        while True:
            for file in self.files:
                yield images.decode(file)[np.newaxis]


def run(session: Any, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.asarray(session.run(["probabilities"], {"images": batch})[0])


class Driver:
    """Sends loads to a server, from a process of their own, with a progress bar."""

    def __init__(self, bare: Bare, progress: Progress) -> None:
        self.bare, self.progress = bare, progress

    def load(self, name: str, server: Server, form: str, clients: int, requests: int) -> Outcome:
        pids, files = [process.pid for process in server.processes], [*map(str, self.bare.files)]
        spec = Spec(server.port, pids, form, clients, requests, files, self.bare.answers)
        task = self.progress.add_task(f"{name}: {clients} clients, {form}", total=requests)
        command = [sys.executable, "-m", "benchmarks.load"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None is not process.stdout
            process.stdin.write(json.dumps(asdict(spec)))
            process.stdin.close()
            line = ""
            for line in process.stdout:
                if line.strip().isdecimal():
                    self.progress.update(task, completed=int(line))
        self.progress.remove_task(task)
        if process.returncode:
            raise RuntimeError(f"the load on {name} broke off:\n{server.log.read_text(errors='replace')[-3000:]}")
        return Outcome(**json.loads(line))

    def warm(self, name: str, server: Server, form: str) -> None:
        self.load(f"{name}, warming up", server, form, 64, WARM_UP)


def _images(folder: Path) -> tuple[list[Path], npt.NDArray[np.uint8]]:
    """Files spread over the folder, of the size that most have, and their pixels uint8 [N, H, W, 3]."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = files[:: max(1, len(files) // DISTINCT)][:DISTINCT]
    pixels = [images.decode(file) for file in files]
    shapes = [each.shape for each in pixels]
    common = max(set(shapes), key=shapes.count)
    kept = [(file, each) for file, each in zip(files, pixels, strict=True) if each.shape == common]
    if len(kept) < max(BATCHES):
        raise UserError(f"{folder} has {len(kept)} images of one size", f"give a folder with {max(BATCHES)} or more")
    return [file for file, _ in kept], np.stack([each for _, each in kept])


def drive_serve(driver: Driver, model: Path, options: argparse.Namespace, log: Path) -> dict[str, Any]:
    port, rounds = free_port(), []
    with running(transferline_serve(model, port), port, "/readyz", log) as server:
        driver.warm("serve", server, "raw")
        for _ in range(options.rounds):
            bare = driver.bare.measure()
            loads = {
                f"{form} {clients}": asdict(driver.load("serve", server, form, clients, _share(options.round, clients)))
                for form, clients in LOADS
            }
            rounds.append({"bare": bare, "loads": loads, "ratio": _ratio(bare, loads["raw 64"])})
        soak = driver.load("serve", server, "raw", 64, options.requests)
    return {"rounds": rounds, "soak": asdict(soak), "memory": flatness(soak.memory)}


def _share(requests: int, clients: int) -> int:
    """Fewer for few clients, who wait for each other less."""
    return requests if clients == 64 else max(1, requests // 3)


def _ratio(bare: dict[str, dict[str, float]], load: dict[str, Any]) -> float:
    best = max(measured["rate"] for name, measured in bare.items() if "decoding" not in name)
    return float(load["answered"] / load["seconds"] / best)


def flatness(memory: list[tuple[int, float]]) -> dict[str, float]:
    """MB at the start, at the end and at most, and what 1,000 requests add to it in the second half."""
    counts, sizes = np.array(memory).T
    half = len(counts) // 2
    slope = float(np.polyfit(counts[half:] / 1000, sizes[half:], 1)[0]) if len(counts) - half > 1 else 0.0
    return {"first": sizes[0], "last": sizes[-1], "most": float(sizes.max()), "per_thousand": slope}


def drive_mlflow(driver: Driver, model: Path, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    folder, port = scratch / "model", free_port()
    flavours.save(flavours.load(model), model, folder, PYFUNC)  # as register does
    given = ["--env-manager", "local", "--host", HOST, "--port", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where MLflow looks for uvicorn
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), *given]
    with running(command, port, "/health", scratch / "mlflow.log", environment) as server:
        driver.warm("mlflow", server, "mlflow")
        return {
            f"mlflow {clients}": asdict(driver.load("mlflow", server, "mlflow", clients, max(1, options.round // 4)))
            for clients in (1, 8, 64)
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("models/onnx/model.onnx"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data/sample"))
    parser.add_argument("--requests", type=int, default=10_000, help="in one go, for the memory")
    parser.add_argument("--round", type=int, default=1000, help="of 64 clients in a round; fewer of fewer clients")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-mlflow", action="store_true")
    options = parser.parse_args()
    print(f"serve: {options.model} under load, with images of {options.folder}", flush=True)
    with Progress(console=Console(stderr=True), transient=True) as progress, tempfile.TemporaryDirectory() as scratch:
        driver = Driver(Bare(options.model, options.folder), progress)
        mlflow = {} if options.without_mlflow else drive_mlflow(driver, options.model, options, Path(scratch))
        results = drive_serve(driver, options.model, options, Path(scratch) / "serve.log")
    results |= {"mlflow": mlflow, "processors": cores.usable(), "images": len(driver.bare.files)}
    write_json(RESULTS, results)
    print(tables(results))
    failed = faults(results)
    print(f"serve: {'; '.join(failed) or 'nothing was lost, refused or wrong'} -> {RESULTS}")
    if failed:
        sys.exit(1)


def outcomes(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Those of the same kind together."""
    rounds = results["rounds"]
    kinds = {f"serve, {name}": [round_["loads"][name] for round_ in rounds] for name in rounds[0]["loads"]}
    kinds["serve, raw 64, in one go"] = [results["soak"]]
    return kinds | {name: [outcome] for name, outcome in results["mlflow"].items()}


def faults(results: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {sum(outcome[fault] for outcome in found)} {fault}"
        for name, found in outcomes(results).items()
        for fault in ("lost", "refused", "wrong")
        if any(outcome[fault] for outcome in found)
    ]


def tables(results: dict[str, Any]) -> str:
    """As Markdown; of several rounds, the medians."""
    rounds = results["rounds"]
    lines = ["| bare session | images/s | ms of processor an image |", "| --- | --- | --- |"]
    for name in rounds[0]["bare"]:
        rate, spent = (median(each["bare"][name][what] for each in rounds) for what in ("rate", "cpu_ms"))
        lines.append(f"| {name} | {rate:.1f} | {spent:.1f} |")
    heads = ("server, body, clients", "requests", "images/s", "p50 ms", "p95 ms", "p99 ms", *BUSY)
    lines += ["", f"| {' | '.join(heads)} |", "| --- |" + " --- |" * (len(heads) - 1)]
    lines += [f"| {name} | {_row(found)} |" for name, found in outcomes(results).items()]
    ratios, memory = sorted(each["ratio"] for each in rounds), results["memory"]
    lines.append(f"\nserve at 64 clients / bare session: {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    grew = f"{memory['first']:.1f} -> {memory['last']:.1f}, at most {memory['most']:.1f}"
    adding = f"in its second half {memory['per_thousand']:+.3f} for 1,000 requests"
    lines.append(f"MB of the server in one go: {grew}; {adding}")
    return "\n".join(lines)


def _row(found: list[dict[str, Any]]) -> str:
    requests = sum(each["answered"] for each in found)
    rates = median(each["answered"] / each["seconds"] for each in found)
    ranks = [median(each["ms"][rank] for each in found) for rank in ("p50", "p95", "p99")]
    cpu = [1000 * sum(each[who] for each in found) / requests for who in ("server_cpu_s", "client_cpu_s")]
    return f"{requests} | {rates:.1f} | {' | '.join(f'{ms:.1f}' for ms in ranks)} | {cpu[0]:.1f} | {cpu[1]:.2f}"


if __name__ == "__main__":
    errors.run(main)

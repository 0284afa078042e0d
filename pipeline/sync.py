"""sync: send to MLflow what stages kept in .cache/spool while it was away."""

from rich.console import Console
from rich.progress import Progress

from transferline import errors, tracking
from transferline.errors import UserError


def main() -> None:
    kept, address = tracking.kept(), tracking.address()
    print(f"sync: {kept.here} calls are kept in .cache/spool for {address}", flush=True)
    if kept.here:
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("sending", total=kept.here)
            sent = tracking.send_kept(lambda: bar.advance(task))
        left = f"{sent.held} are left to stages that run, which send them" if sent.held else "nothing is left"
        print(f"sync: {sent.calls} calls sent, {left} -> {address}", flush=True)
    for other, count in kept.elsewhere.items():
        fix = "set MLFLOW_TRACKING_URI to it, or unset it for the project's own, and repeat 'transferline sync'"
        raise UserError(f"{count} calls are kept for another store, {other}", fix)


if __name__ == "__main__":
    errors.run(main)

"""Sending what spools keep: this process's own, and those that processes which have ended left behind."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transferline.tracking import calls, reach, spool

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Kept:
    """How many calls wait."""

    here: int  # for this store
    elsewhere: dict[str, int]  # for others, by their names


@dataclass(frozen=True)
class Sent:
    calls: int
    held: int  # calls that wait in the files of processes that still run, which send them themselves
    trouble: str  # why it ended early; empty where it did not


def send(
    client: "MlflowClient",
    kept: spool.Spool,
    uri: str,
    seconds: float = float("inf"),
    report: Callable[[], object] = lambda: None,
) -> tuple[int, str]:
    """Send a spool's calls in order, as many as the time allows.

    A call that the store will never take is put aside and named.

    Returns:
        How many were sent, and why the store was found away; empty where it was not.
    """
    done, begun = 0, time.monotonic()
    if not reach.answers(uri):
        return done, "it does not answer"
    for record, end in kept.unsent():
        try:
            calls.send(client, calls.from_record(record), again=True)
        except Exception as error:
            if isinstance(error, spool.UnknownRunError) or reach.away(error):
                return done, reach.reason(error)
            kept.refuse(record, reach.reason(error))
            print(f"tracking: MLflow refuses a {record['call']} of .cache/spool, which is put aside in", flush=True)
            print(f"  {spool.folder() / 'refused.jsonl'}: {reach.reason(error)}", flush=True)
        kept.mark(end)
        done += 1
        report()
        if time.monotonic() - begun > seconds:
            break
    return done, ""


def finished(kept: spool.Spool) -> bool:
    return next(kept.unsent(), None) is None


def count(place: str) -> Kept:
    """What waits, for the store of that name and for others."""
    here, elsewhere = 0, dict[str, int]()
    for path in spool.kept():
        calls_left, store = spool.count(path), spool.store_of(path)
        if store == place:
            here += calls_left
        elif store and calls_left:
            elsewhere[store] = elsewhere.get(store, 0) + calls_left
    return Kept(here, elsewhere)


def clear(client: "MlflowClient", uri: str, place: str, report: Callable[[], object] = lambda: None) -> Sent:
    """Send, the oldest first, what processes that have ended left behind for this store. One process at a time."""
    total, held = 0, 0
    with _one_at_a_time():
        for path in spool.kept():
            store = spool.store_of(path)
            if store not in (place, None):
                continue
            kept = spool.Spool.adopt(path)
            if kept is None:
                held += spool.count(path)
                continue
            try:
                done, trouble = send(client, kept, uri, report=report)
                total += done
                if trouble:
                    return Sent(total, held, trouble)
                kept.discard()
            finally:
                kept.release()
    return Sent(total, held, "")


def _one_at_a_time() -> "BaseFileLock":
    from filelock import FileLock

    return FileLock(spool.folder() / "sending.lock")

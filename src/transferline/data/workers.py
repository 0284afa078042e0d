"""Work on many files in processes that a file may kill or hang: such a file is named, the others go on."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from transferline import cores

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 16  # items a worker takes at once: few enough to keep a progress bar moving


@dataclass(frozen=True)
class Work(Generic[Item, Result]):
    """What to do with an item.

    Attributes:
        do: can be pickled, as its results can; raises nothing.
        dead: the result of an item that killed its process, or took longer; told the reason.
        seconds: that one item may take.
    """

    do: Callable[[Item], Result]
    dead: Callable[[Item, str], Result]
    seconds: float

    def each(self, items: Sequence[Item]) -> Iterator[Result]:
        """The result of every item, in the order of `items`, by one process per core.

        Where a process dies, the chunks that were under way are done again, each in a process that hands over
        an item's result before it takes the next: the item that kills that one, too, is at fault.
        """
        chunks = deque(items[low : low + _CHUNK] for low in range(0, len(items), _CHUNK))
        while chunks:
            yield from self._until_broken(chunks)

    def _until_broken(self, chunks: deque[Sequence[Item]]) -> Iterator[Result]:
        """Results of the next chunks, which are taken out of `chunks`, until there are none or a worker has died."""
        workers = min(cores.usable(), len(chunks))
        pool, broken = ProcessPoolExecutor(workers, initializer=_end_quietly), False
        running: deque[tuple[Sequence[Item], Future[list[Result]]]] = deque()
        try:
            while running or (chunks and not broken):
                while chunks and not broken and len(running) < 2 * workers:
                    try:
                        running.append((chunks[0], pool.submit(self._chunk, chunks[0])))
                        chunks.popleft()
                    except BrokenProcessPool:
                        broken = True
                if running:
                    chunk, future = running.popleft()
                    try:
                        found = future.result()
                    except BrokenProcessPool:
                        broken, found = True, self._one_by_one(chunk)
                    yield from found
        finally:
            pool.shutdown(cancel_futures=True)

    def _one_by_one(self, items: Sequence[Item]) -> list[Result]:
        found: list[Result] = []
        while len(found) < len(items):
            receiver, sender = Pipe(duplex=False)
            process = Process(target=self._send, args=(items[len(found) :], sender), daemon=True)
            process.start()
            sender.close()
            with receiver:
                try:
                    while len(found) < len(items):
                        found.append(receiver.recv())
                except EOFError:  # it is dead
                    process.join()
                    found.append(self.dead(items[len(found)], self._reason(process.exitcode or 0)))
            process.join()
        return found

    def _chunk(self, items: Sequence[Item]) -> list[Result]:
        return [self._timed(item) for item in items]

    def _send(self, items: Sequence[Item], sender: Connection) -> None:
        _end_quietly()
        for item in items:
            sender.send(self._timed(item))

    def _timed(self, item: Item) -> Result:
        """Ends this process where the item takes too long: a decoder in C cannot be interrupted otherwise."""
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        try:
            return self.do(item)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _reason(self, exit_code: int) -> str:
        if exit_code == -signal.SIGALRM:
            return f"takes longer than {self.seconds:g} seconds to decode"
        if exit_code == -signal.SIGKILL:
            return "crashes the decoder (killed, as where memory runs out)"
        how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
        return f"crashes the decoder ({how})"


def _end_quietly() -> None:
    """Workers leave Ctrl-C to the stage, which then ends them, and die of other signals without a traceback.

    What decoders in C write to stderr about a broken file, they keep to themselves: it tells no file's name.
    """
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

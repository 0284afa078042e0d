"""Whether a file is the one that was published: by the hash in its name, or the one that the hub states."""

import hashlib
import pickle
import re
from pathlib import Path

from transferline.artifacts import sha256
from transferline.errors import UserError


def stamp(name: str) -> str | None:
    """The first digits of the sha256 that publishers put into a file's name (`resnet18-f37072fd.pth`); None: none."""
    found = re.search(r"-([0-9a-f]{8,64})\.[^-]*$", name)
    return found[1] if found else None


def stated(file: Path) -> str | None:
    """What the Hugging Face hub states of a file in its cache; None where that cannot be told from the cache.

    There, a file is a link to one named by its hash: of content for large files (sha256), as git has it for others.
    """
    return hash_or_none(file.readlink().name) if file.is_symlink() else None


def hash_or_none(text: str | None) -> str | None:
    """`text` where it is a whole sha256, or a sha1 as git has it."""
    return text if text and re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", text) else None


def require(file: Path, expected: str | None, fix: str = "") -> None:
    """Raises UserError, naming the file and what mends it, where its hash is another one.

    Args:
        file: that is to be loaded.
        expected: the first digits of its sha256, at least 8, or the 40 digits of git's sha1; None: nobody published
            one, which is said in a line.
        fix: what to do; "": remove the file, and it is downloaded again.
    """
    if expected is None:
        print(f"{file}: nobody publishes its hash, so whether it is damaged shows only in loading it", flush=True)
        return
    algorithm, digest = ("git sha1", _as_git(file)) if len(expected) == 40 else ("sha256", sha256(file))
    if not digest.startswith(expected):
        again = f"rm '{file.resolve()}'    # and run again: it is then downloaded anew"
        raise UserError(f"{file} is damaged: its {algorithm} is not {_short(expected)}", fix or again)


def refusal(error: Exception) -> str:
    """Why a file of weights was not loaded, in a line; without torch's advice to unpickle it all the same."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    refused = isinstance(error, pickle.UnpicklingError) or "weights_only" in text
    return "it is damaged, or holds objects that are no tensors" if refused else text


def _short(digest: str) -> str:
    return digest if len(digest) >= 40 else f"{digest}..."


def _as_git(file: Path) -> str:
    content = file.read_bytes()
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()

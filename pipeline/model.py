"""model: fetch a registered model, NAME@ALIAS or NAME/VERSION, into .cache/models."""

import re
import sys

from transferline import errors, tracking
from transferline.tracking import fetching  # which no stage needs: a change of it wakes none


def main() -> None:
    (given,) = sys.argv[1:]
    print(f"model: looking for {given} in MLflow at {tracking.address()}", flush=True)
    name, which = re.split(r"(?=@)|/", given, maxsplit=1)
    fetched = fetching.fetch(name, which, lambda line: print(f"model: {line}", flush=True))
    print(f"model: {name} version {fetched.version} -> {fetched.path}", flush=True)


if __name__ == "__main__":
    errors.run(main)

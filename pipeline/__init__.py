"""One script a stage: read params, open the run, call one function, write the results."""

import sys
from pathlib import Path

# A queued experiment runs in a copy of the repository: it must run the copy's code, not the installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

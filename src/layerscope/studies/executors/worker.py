"""A worker process: a cell a line on standard input, what came of it a line on standard output.

Lines are JSON, so that nothing of the caller's program is imported or unpickled here. Run by `local`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import IO, Any

from layerscope.studies.cells import Outcome, Worker


def encoded(outcome: Outcome) -> str:
    """Return an outcome as one line."""
    files = {name: base64.b64encode(content).decode() for name, content in outcome.files.items()}
    values = {name: getattr(outcome, name) for name in ("key", "reason", "facts")}
    return json.dumps({**values, "files": files})


def decoded(line: str) -> Outcome:
    """Return the outcome that a line holds."""
    values: dict[str, Any] = json.loads(line)
    files = {name: base64.b64decode(content) for name, content in values.pop("files").items()}
    return Outcome(**values, files=files)


def main() -> None:
    """Run cells until standard input ends; what libraries print goes to standard error."""
    out: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    root, threads = sys.argv[1:]
    worker = Worker(root, int(threads))
    for line in sys.stdin:
        out.write(encoded(worker.run(json.loads(line))) + "\n")
        out.flush()


if __name__ == "__main__":
    main()

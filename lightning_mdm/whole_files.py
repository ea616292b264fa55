"""Files that are written at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A draft beside ``path`` to write to, which takes its place in the end; the folder is made if missing.

    Whoever reads sees a whole file, whatever ends the program. Nothing is left of a draft whose writing failed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        yield draft
        with open(draft, "rb") as file:
            os.fsync(file.fileno())  # or a crash of the machine might leave the name with nothing behind it
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)

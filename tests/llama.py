"""What tests of GSM8K-Aug share: the files to rehearse with, made by the experiment's own functions."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from runs import REPOSITORY

REHEARSAL: dict[str, Any] = runpy.run_path(str(REPOSITORY / "experiments" / "gsm8k_aug" / "rehearsal.py"))


def files(folder: Path) -> Path:
    """Problems and tokenizer in a folder."""
    REHEARSAL["write"](folder)
    return folder

"""Which source produced a row."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

COMMIT = "LIGHTNING_MDM_COMMIT"  # environment variable
UNKNOWN, MODIFIED = "unknown", "-dirty"
_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def commit_hash(source: Path = _PACKAGE) -> str:
    """Short git commit of the Python files below ``source``, with ``-dirty`` when one is modified or untracked.

    Where git is missing or does not track the source (an installed package, possibly inside somebody else's repository,
    or a copy without its ``.git``), what the environment variable ``LIGHTNING_MDM_COMMIT`` says, else ``"unknown"``.
    Never raises. Asked once per process: what runs is what was imported, whatever is edited later.
    """
    try:
        if not _git(source, "ls-files", "--", ":(glob)**/*.py"):
            return _said()
        commit = _git(source, "rev-parse", "--short", "HEAD")
        modified = _git(source, "status", "--porcelain", "--untracked-files=all", "--", ":(glob)**/*.py")
    except (OSError, subprocess.SubprocessError):
        return _said()
    return f"{commit}{MODIFIED}" if modified else commit


def names_one_source(commit: str) -> bool:
    """Whether a commit stands for one state of the source, so that what bears it was produced by the same code."""
    return commit != UNKNOWN and not commit.endswith(MODIFIED)


def _said() -> str:
    return os.environ.get(COMMIT, "").strip() or UNKNOWN


def _git(source: Path, *arguments: str) -> str:
    # Inside a git hook these variables name the hook's repository, which need not be the source's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(source), *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=20
    ).stdout.strip()

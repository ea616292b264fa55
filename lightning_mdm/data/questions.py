"""Questions of a user's own, for ``predict``: a text file with one a line, or ``.jsonl`` with ``question``.

Knows nothing of tasks or tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

from lightning_mdm.data.problem import Problem


def read_questions(path: str) -> list[Problem]:
    """The problems to predict; a ``.jsonl`` line may carry its ``answer``, otherwise the reference is empty.

    Raises:
        ValueError: no such file, no question in it, or a malformed line, named by its number.
    """
    if not Path(path).is_file():
        raise ValueError(f"predict_path={path!r}: no such file; give a text file of questions or a .jsonl")
    problems: list[Problem] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        question, answer = line.strip(), ""
        if path.endswith(".jsonl"):
            try:
                row = json.loads(line)
                question, answer = row["question"], str(row.get("answer", ""))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}:{number}: need a JSON object with a question, got {line[:80]!r}") from error
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"{path}:{number}: the question is empty or no text")
        problems.append(Problem(len(problems), question, "", answer))
    if not problems:
        raise ValueError(f"predict_path={path!r} holds no question")
    return problems

"""Questions of a user's own, for ``predict``: a text file with one a line, or ``.jsonl`` with ``question``.

Knows nothing of tasks or tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lightning_mdm.text_lines import numbered_lines


@dataclass(frozen=True)
class Question:
    """A question of a file.

    Args:
        text: the question.
        answer: the reference answer, empty where none is given.
        where: file and line, for messages.
    """

    text: str
    answer: str
    where: str


def read_questions(path: str) -> list[Question]:
    """The questions of a file; a ``.jsonl`` line may carry its ``answer``, otherwise the reference is empty.

    Raises:
        ValueError: no such file, no question in it, or a line that is malformed or not UTF-8, named by its number.
    """
    if not Path(path).is_file():
        raise ValueError(f"predict_path={path!r}: no such file; give a text file of questions or a .jsonl")
    questions: list[Question] = []
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        question, answer, where = line.strip(), None, f"{path}, line {number}"
        if path.endswith(".jsonl"):
            try:
                row = json.loads(line)
                question, answer = row["question"], row.get("answer")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{where}: need a JSON object with a question, got {line[:80]!r}") from error
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"{where}: the question is empty or no text")
        questions.append(Question(question, "" if answer is None else str(answer), where))
    if not questions:
        raise ValueError(f"predict_path={path!r} holds no question")
    return questions

"""A file is there whole, or as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_mdm.whole_files import whole_file


def test_a_file_takes_its_place_in_the_end_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "made" / "rows.csv"
    with whole_file(path) as draft:
        draft.write_text("whole")
        assert draft.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole"
    with whole_file(str(path)) as draft:
        draft.write_text("other")
        assert path.read_text() == "whole"
    assert path.read_text() == "other"
    assert [file.name for file in path.parent.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("begun", [False, True])
def test_where_writing_fails_the_file_stays_as_it_was_and_nothing_else_is_left(tmp_path: Path, begun: bool) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("whole")

    def write() -> None:
        with whole_file(path) as draft:
            if begun:
                draft.write_text("ha")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]

"""Settings of every test run."""

import gc
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imsave

from runs import last, program, tiny

TESTS = Path(__file__).parent
imsave(white := io.BytesIO(), torch.ones(1, 1, 3).numpy(), format="png")
BLANK = white.getvalue()

# The tensors here are small: a second thread gains nothing, and on a busy machine waiting for it costs tenfold.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first, then whole programs: where one process waits for another, what is left is short."""
    items.sort(key=lambda item: (item.get_closest_marker("long") is None, item.path.parent != TESTS))


def pytest_collection_finish() -> None:
    """What all tests import is not searched for garbage again and again, which takes a tenth of their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def _few_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token frequencies are those of a few problems: to make thousands takes seconds wherever all policies run."""
    monkeypatch.setattr("lightning_mdm.data.facts.COUNTED", 100)


@pytest.fixture(autouse=True)
def _blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of figures are blank but for tests marked ``draws``: to draw them is a third of a small sweep's time."""
    if request.node.get_closest_marker("draws") is None:
        monkeypatch.setattr(Figure, "savefig", blank)


def blank(figure: Figure, path: Path, format: str, **options: Any) -> None:
    """Stands for ``Figure.savefig``."""
    path.write_bytes(BLANK if format == "png" else b"<svg/>")


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory after a fit of four updates and a sweep, for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("trained")
    run = folder / "run"
    program("fit", *tiny(folder), "--run_dir", run)
    program("sweep", *tiny(folder), "--run_dir", run, "--ckpt_path", last(run))
    return run

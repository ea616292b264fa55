"""What the tests of several files share."""

from __future__ import annotations

import pytest

from modules.orders import denoiser_file


@pytest.fixture(scope="session")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> str:
    return denoiser_file(tmp_path_factory.mktemp("denoiser"))

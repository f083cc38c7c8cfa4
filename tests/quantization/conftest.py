from __future__ import annotations

from pathlib import Path

import pytest

from .nets import NETS, write_net, write_patterns


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained nets and their data."""
    folder = tmp_path_factory.mktemp("trained")
    write_patterns(folder)
    for name in NETS:
        write_net(folder, name)
    return folder

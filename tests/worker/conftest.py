"""Models for the worker's tests: published once, loaded by every test as a worker loads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.bench import publish_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with one detector, `payments`, and one version in production."""
    return publish_models(tmp_path_factory.mktemp("models"))

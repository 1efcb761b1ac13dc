"""What the tests of every room share: one small real detector, fitted once."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
import torch

from detector import Detector
from tests.payments import fitted_detector

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def pytest_configure() -> None:
    """One thread is quickest for small networks, and two test processes do not fight over the cores.

    No example of hypothesis has a deadline: how long one takes is the machine's affair.
    """
    torch.set_num_threads(1)
    hypothesis.settings.register_profile("offbeat", deadline=None)
    hypothesis.settings.load_profile("offbeat")


@pytest.fixture(scope="session")
def tiny_detector() -> Detector:
    """A detector of small payments, fitted on 1,500 normal ones: see tests/payments.py for what it finds odd."""
    return fitted_detector()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; a test that needs it is skipped where it is not there."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data is not at {SHARED / 'data'}: this test needs it, all others do not")
    return SHARED / "data"

"""What tests of models share."""

import pytest
from huggingface_hub import constants
from shared.hub import serving


@pytest.fixture
def hub(monkeypatch):
    """A stand-in of the hub, which uploads go to."""
    with serving() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        yield stand_in

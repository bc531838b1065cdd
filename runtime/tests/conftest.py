"""Fixtures: quiet libraries on one thread."""

import pytest
import torch
import transformers


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # tiny models: a second thread only waits

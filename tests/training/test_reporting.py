"""`report_to` is checked before there is work to lose."""

import pytest

from pruneonce import stages
from pruneonce.errors import UserError
from pruneonce.recipe import Corpus, Prune
from pruneonce.training.reporting import check_report_to


def test_logging_integrations_are_checked_first(encoder, corpus_file, tmp_path):
    corpus = Corpus(source=str(corpus_file), block_length=16)
    settings = Prune(objective="hidden", sparsity=0.5, steps=2, learning_rate=1e-3)
    with pytest.raises(UserError, match=r"no logging integration 'nonsense' for `report_to`; there are .*tensorboard"):
        stages.prune(encoder, corpus, settings, tmp_path / "out", cache=tmp_path / "cache", report_to=["nonsense"])
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_integration_is_named():
    with pytest.raises(UserError, match="did you mean 'tensorboard'"):
        check_report_to(["tensor_board"])


def test_an_integration_without_its_package(monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    with pytest.raises(UserError, match="the package of 'wandb' in `report_to` is not installed; install it, or leave"):
        check_report_to(["tensorboard", "wandb"])


@pytest.mark.parametrize("names", [None, [], ["tensorboard"], ["none"], ["all"]])
def test_what_transformers_takes_is_taken(names):
    check_report_to(names)

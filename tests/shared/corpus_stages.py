"""Every architecture and objective through the corpus stages, in each of two processes: system/test_distributed.py."""

from pathlib import Path

import pytest

from pruneonce import stages
from pruneonce.recipe import Corpus, Prepare, Prune
from pruneonce.system import distributed


def run(models: Path, corpus: Path, output: Path) -> None:
    text = Corpus(source=str(corpus), block_length=16, validation=0.1)
    shared = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3}
    for model in sorted(models.iterdir()):
        prepared = stages.prepare(model, text, Prepare(**shared), output / f"{model.name}-prepared")
        for objective in ("hidden", "both"):
            settings = Prune(**shared, objective=objective, every=1, start=0, end=3)
            stages.prune(prepared, text, settings, output / f"{model.name}-{objective}")
    streamed = text.model_copy(update={"streaming": True, "validation": 0.01})
    stages.prune(prepared, streamed, Prune(**shared, start=0, end=3), output / "streamed")
    assert distributed.world() == 2
    distributed.must_agree("the same", "the masks")
    with pytest.raises(RuntimeError, match="the masks differ between the processes"):
        distributed.must_agree(f"of {distributed.rank()}", "the masks")
    distributed.leave()

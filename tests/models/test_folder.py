"""Model folders as stages write them."""

import json

from pruneonce import stages
from pruneonce.recipe import Training


def test_the_tokenizer_is_that_of_the_source_and_not_as_it_was_last_used(encoder, task, tmp_path):
    """A run that was interrupted reads its texts again, and one that was not has them; both leave the same folder."""
    settings = Training(steps=1, batch_size=4, learning_rate=1e-3)
    folder = stages.finetune(encoder, task, settings, tmp_path / "dense")
    saved, source = (json.loads((model / "tokenizer.json").read_text()) for model in (folder, encoder))
    assert saved == source
    assert saved["truncation"] is None

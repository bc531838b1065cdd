"""The model card: README.md of a model folder, as the hub shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from pruneonce.models.certificate import certificate_block

TASK_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")

CARD = """---
{{ card_data }}
---

# {{ title }}

{{ text }}

`pruneonce.json` holds the settings and the versions that made this model. Load it with plain `transformers`:

```python
from transformers import {{ auto_class }}

model = {{ auto_class }}.from_pretrained("path/to/this/folder")
```
"""


def write_card(model_class: str, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write the model card of a model folder.

    Args:
        model_class: name of the model's class.
        folder: the model folder.
        provenance: its provenance, with `stage` and `sparsity`.
    """
    auto = "AutoModel"
    for head in (*TASK_HEADS, "ForMaskedLM", "ForPreTraining"):
        if model_class.endswith(head):
            auto = "AutoModelForMaskedLM" if head == "ForPreTraining" else f"AutoModel{head}"
    zeros = provenance["sparsity"]["encoder"]
    text = f"Made by pruneonce's stage `{provenance['stage']}`; {zeros:.1%} of the encoder's Linear weights are zero."
    card = ModelCard.from_template(
        ModelCardData(library_name="transformers", tags=["pruneonce"]),
        template_str=CARD,
        title=folder.name.removesuffix(".partial"),
        text=text,
        auto_class=auto,
    )
    certificate = certificate_block(folder)
    (folder / "README.md").write_text("\n\n".join(filter(None, [card.content, certificate])), encoding="utf-8")

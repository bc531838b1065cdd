"""Page docs/recipe-reference.md: every key of a recipe, from the descriptions of the fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator

from pruneonce.config.section import Section
from pruneonce.plugins import Options
from pruneonce.plugins.registry import BUILT_IN
from pruneonce.recipe.keys import Key, Place, keys_of, own_fields, parts, places
from pruneonce.recipe.quantization import Quantization
from pruneonce.recipe.sections import Distillation, Sparsification, Training, Transfer, Zeros
from pruneonce.recipe.swept import Swept
from pruneonce.recipe.tasks import Task, TextTask

# Keys that several sections share.
SHARED: dict[type[Section], str] = {
    Training: "How a stage trains",
    Distillation: "Distillation",
    Transfer: "Fine-tuning with locked zeros",
    Swept: "Sweep",
    Zeros: "Zeros",
    Sparsification: "Gradual pruning",
    Quantization: "Grid",
    Task: "Every task",
    TextTask: "Tasks with unlabelled texts",
}

HEAD = """# Recipe reference

<!-- Made by `make reference` from the descriptions of the fields in src/pruneonce; change those. -->

Every key of a recipe. `pruneonce recipes keys SECTION` shows the keys of a section in the terminal. How a recipe is put
together is in [recipes.md](recipes.md), and what the settings do is in [method.md](method.md).

- A default of `-` is null, or depends on the machine as the meaning says. A key that is *required* has no default.
- Lengths of time (`warmup`, `start`, `end`, `until`, `every`, `head_steps`, `checkpoint_every`) are a fraction of the
  stage's steps below 1, and a number of steps from 1 on: `end: 0.5` is half of the run and `end: 1` is the first step.
- A key that stands in two tables of a section has the default of the first.

## In an editor

`pruneonce recipes schema > recipe.schema.json` writes a JSON schema. Editors that use yaml-language-server, such as
VS Code with the YAML extension, complete and check the keys of a recipe with this first line:

```yaml
# yaml-language-server: $schema=recipe.schema.json
```

The schema knows keys, types and ranges. `pruneonce plan` and `pruneonce run` also check what keys ask of one another,
such as exactly one of `steps` and `epochs`. A file without `name` is taken for a base of other recipes, which may be
incomplete.
"""


def page() -> str:
    """Return the whole page as Markdown. Methods of other packages are left out."""
    documented = [place for place in places().values() if _is_ours(place)]
    sections = [place for place in documented if not issubclass(place.section, Options)]
    methods = [place for place in documented if issubclass(place.section, Options)]
    chapters = [
        HEAD.rstrip(),
        "## Sections",
        *(_chapter(place) for place in sections),
        "## Shared keys",
        *(_shared(section, title) for section, title in SHARED.items()),
        "## Options of methods",
        "The keys of `method`. What each method does is in [methods.md](methods.md).",
        *(_chapter(place) for place in methods),
    ]
    return "\n\n".join(chapters) + "\n"


def _is_ours(place: Place) -> bool:
    return not issubclass(place.section, Options) or place.section.__module__.rpartition(".")[2] in BUILT_IN


def _chapter(place: Place) -> str:
    bases = parts(place.section)
    own_keys = [name for part in bases if part is place.section for name in own_fields(part)]
    shared = [_link(_title(part)) for part in bases if part is not place.section]
    stands = "" if place.at == (place.name,) else f" Stands in: {', '.join(f'`{at}`' for at in place.at)}."
    lines = [f"### {_title(place.section)}", place.summary + stands]
    if own_keys:
        lines.append(_table(keys_of(place.section, own_keys)))
    if shared:
        lines.append(f"{'Further keys' if own_keys else 'Keys'}: {', '.join(shared)}.")
    return "\n\n".join(lines)


def _shared(section: type[Section], title: str) -> str:
    users = [_link(_title(place.section)) for place in places().values() if section in parts(place.section)]
    summary = inspect.cleandoc(section.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    table = _table(keys_of(section, own_fields(section)))
    return "\n\n".join([f"### {title}", f"{summary} For {', '.join(users)}.", table])


def _title(section: type[Section]) -> str:
    if section in SHARED:
        return SHARED[section]
    place = next(place for place in places().values() if place.section is section)
    return f"`{place.name}`"


def _link(title: str) -> str:
    anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    return f"[{title}](#{anchor})"


def _table(keys: Iterable[Key]) -> str:
    return "\n".join(_rows(keys))


def _rows(keys: Iterable[Key]) -> Iterator[str]:
    yield "| Key | Values | Default | Meaning |"
    yield "| --- | --- | --- | --- |"
    for key in keys:
        default = key.default if key.default in ("required", "-") else f"`{key.default}`"
        yield f"| `{key.name}` | {key.values} | {default} | {key.meaning} |"

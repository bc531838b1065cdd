"""Draw which packages of pruneonce import which: docs/layers.svg, by `grimp` and Graphviz's `dot`.

python docs/layers.py
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import grimp

ROOT = "pruneonce"
PICTURE = Path(__file__).with_name("layers.svg")


def packages() -> dict[str, set[str]]:
    """The packages that each package imports, by name; the modules `errors`, `console` and `wording` count as one."""
    graph = grimp.build_graph(ROOT, cache_dir=None)

    def package(module: str) -> str:
        name = module.split(".")[1] if "." in module else ""
        return "errors, console, wording" if name in ("errors", "console", "wording") else name

    found: dict[str, set[str]] = {}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            one, other = package(module), package(imported)
            if one and other and one != other and one != "__main__":
                found.setdefault(one, set()).add(other)
    return found


def floors(imports: dict[str, set[str]]) -> dict[str, int]:
    """How many packages stand below each one, on the longest way down."""
    heights: dict[str, int] = {}

    def height(name: str) -> int:
        if name not in heights:
            heights[name] = 1 + max((height(one) for one in imports.get(name, ())), default=-1)
        return heights[name]

    for name in imports:
        height(name)
    return heights


def reduced(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that follow from others."""

    def below(name: str) -> set[str]:
        return {two for one in imports.get(name, ()) for two in {one, *below(one)}}

    return {
        name: {one for one in ones if not any(one in below(two) for two in ones if two != one)}
        for name, ones in imports.items()
    }


def main() -> None:
    imports = packages()
    arrows = [f'"{one}" -> "{two}"' for one, ones in sorted(reduced(imports).items()) for two in sorted(ones)]
    dot = "\n".join(
        [
            "digraph {",
            'bgcolor="transparent"; nodesep=0.25; ranksep=0.3;',
            'node [shape=box, style="rounded,filled", fillcolor="#eef3f8", color="#7a8ca0", fontname="sans-serif"];',
            'edge [color="#7a8ca0", arrowsize=0.6];',
            *arrows,
            "}",
        ]
    )
    subprocess.run(["dot", "-Tsvg", "-o", str(PICTURE)], input=dot, text=True, check=True)
    modules = grimp.build_graph(ROOT, cache_dir=None).modules
    single = [path for path in Path("src", ROOT).glob("*.py") if path.stem not in ("__init__", "__main__")]
    print(f"{len(modules)} modules, {len(single)} of them on the top level, {len(imports)} packages on")
    print(f"{max(floors(imports).values()) + 1} floors, {sum(map(len, imports.values()))} arrows between them")


if __name__ == "__main__":
    main()

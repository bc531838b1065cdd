"""Tests of clients run only where they are asked for: `-m clients`."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "clients" in config.option.markexpr:
        return
    if left_out := [item for item in items if item.get_closest_marker("clients")]:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)

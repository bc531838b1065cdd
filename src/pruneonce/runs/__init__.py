"""Run of a recipe in its folder: stages in order, resumed where they stopped, then a summary and a report."""

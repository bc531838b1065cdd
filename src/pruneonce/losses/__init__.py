"""Losses that the stages minimise."""

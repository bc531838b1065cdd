"""Estimate of a run before it starts: steps, tokens, arithmetic, hours, memory and disk."""

from pruneonce.plan.estimate import Plan, plan

__all__ = ["Plan", "plan"]

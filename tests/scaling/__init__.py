"""Budgets, quotas and slots."""

"""Plugins of third parties, really installed."""

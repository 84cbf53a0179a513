"""Backup and restore, on real NATS servers."""

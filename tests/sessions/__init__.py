"""Sessions: turns, windows, life cycle, on real NATS."""

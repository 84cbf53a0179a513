"""Tool servers for tests: real ones that behave, and raw ones that do not."""

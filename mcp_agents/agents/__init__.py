"""Agents as records: what an agent is, and the catalog a tenant keeps of them.

Not the running of one: that is `execution`. Below: security and the kernel.
"""

"""The plugin `governance`: who may do what in a tenant, and who did what.

`policies` are rules over what scopes give, `roles` what scopes people have, `trail` the record of administration.
"""

from mcp_agents_tools.surface.governance import policies, roles, trail
from mcp_agents_tools.surface.governance.named import plugin

__all__ = ["plugin", "policies", "roles", "trail"]

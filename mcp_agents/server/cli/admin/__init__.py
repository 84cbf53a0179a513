"""`token`, `tenant`, `user`, `client`, `keys`, `audit`: administration on the data folder, beside a server or without.

Whoever reads the data folder holds every right; what they do here is written down in the audit trail all the same.
"""

from mcp_agents.server.cli.admin.clients import client
from mcp_agents.server.cli.admin.keys import keys, token
from mcp_agents.server.cli.admin.tenants import tenant
from mcp_agents.server.cli.admin.trail import audit
from mcp_agents.server.cli.admin.users import user

__all__ = ["audit", "client", "keys", "tenant", "token", "user"]

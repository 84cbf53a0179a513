"""The table of rights of everything the house itself offers. Listing, calling and the docs all ask it.

A third party's plugin brings a table of its own; `catalogue` joins them.
"""

from typing import Final

AGENTS: Final = {
    "agent_create": "agents:write",
    "agent_get": "agents:read",
    "agent_list": "agents:read",
    "agent_update": "agents:write",
    "agent_delete": "agents:write",
    "agent_set_active": "agents:write",
    "agent_versions": "agents:read",
    "agent_rollback": "agents:write",
    "cb://agents/{id}": "agents:read",
    "cb://agents/{id}/versions/{n}": "agents:read",
    "cb://agents/{id}/state": "agents:read",
    "design_agent": "agents:read",
}
EXECUTIONS: Final = {
    "agent_execute": "executions:run",
    "agent_submit": "executions:run",
    "execution_get": "executions:read",
    "execution_wait": "executions:read",
    "execution_list": "executions:read",
    "execution_events": "executions:read",
    "execution_cancel": "executions:run",
    "execution_resume": "executions:run",
    "execution_steer": "executions:run",
    "execution_share": "executions:run",
    "execution_estimate": "executions:read",
    "dead_letter_list": "executions:read",
    "dead_letter_requeue": "executions:run",
    "cb://executions/{id}": "executions:read",
    "cb://executions/{id}/events": "executions:read",
    "cb://executions/{id}/transcript": "executions:read",
    "debug_execution": "executions:read",
}
SESSIONS: Final = {
    "session_create": "sessions:run",
    "session_get": "sessions:read",
    "session_list": "sessions:read",
    "session_messages": "sessions:read",
    "session_suspend": "sessions:run",
    "session_activate": "sessions:run",
    "session_close": "sessions:run",
    "session_delete": "sessions:run",
    "session_pin": "sessions:run",
    "session_compact": "executions:run",  # it is a run, and paid
    "session_fork": "sessions:run",
    "session_share": "sessions:run",
    "session_unshare": "sessions:run",
    "session_export": "sessions:read",
    "session_report": "sessions:read",
    "session_import": "sessions:run",
    "memory_list": "sessions:read",
    "memory_edit": "sessions:run",  # of what is remembered about the tenant: also agents:write
    "memory_erase": "sessions:run",  # likewise
    "cb://sessions/{id}": "sessions:read",
}
APPROVALS: Final = {
    "approval_list": "approvals:read",
    "approval_decide": "approvals:run",
    "cb://approvals/{id}": "approvals:read",
}
ANALYTICS: Final = {
    "usage_report": "analytics:read",
    "cost_report": "analytics:read",
    "review_costs": "analytics:read",
}
TOOLSERVERS: Final = {
    "tool_server_add": "toolservers:write",
    "tool_server_get": "toolservers:read",
    "tool_server_list": "toolservers:read",
    "tool_server_refresh": "toolservers:write",
    "tool_server_authorize": "toolservers:run",  # one's own; an agent's or the tenant's needs toolservers:write
    "tool_server_remove": "toolservers:write",
    "tool_list": "toolservers:read",
    "cb://tools": "toolservers:read",
}
MODELS: Final = {
    "model_list": "models:read",
    "model_resolve": "models:read",
    "model_route_set": "models:write",
    "provider_key_set": "models:admin",
    "provider_key_list": "models:admin",
    "provider_key_delete": "models:admin",
    "cb://models": "models:read",
    "cb://models/health": "models:read",
}
CAPACITY: Final = {
    "budget_set": "capacity:admin",  # a limit that whoever it limits can lift is none
    "budget_get": "capacity:read",
    "quota_set": "capacity:admin",
    "quota_get": "capacity:read",
}
TENANCY: Final = {
    "tenant_get": "tenancy:read",
    "tenant_update": "tenancy:admin",
    "user_invite": "tenancy:admin",
    "user_list": "tenancy:read",
    "user_remove": "tenancy:admin",
    "user_suspend": "tenancy:admin",
    "client_register": "tenancy:admin",
    "client_list": "tenancy:read",
    "client_revoke": "tenancy:admin",
}
POLICIES: Final = {
    "policy_set": "governance:admin",
    "policy_get": "governance:read",
    "policy_list": "governance:read",
    "policy_delete": "governance:admin",
    "policy_explain": "governance:read",
}
GOVERNANCE: Final = {
    **POLICIES,
    "role_assign": "governance:admin",
    "role_revoke": "governance:admin",
    "role_list": "governance:read",
    "audit_query": "audit:read",
    "audit_verify": "audit:read",
}
TASKS: Final = {
    "tasks/get": EXECUTIONS["execution_get"],
    "tasks/update": EXECUTIONS["execution_resume"],
    "tasks/cancel": EXECUTIONS["execution_cancel"],
}
"""Methods of the tasks extension: a task is a run, and they do to it what these tools do."""
AGENT_SERVER: Final = "executions:run"
"""What calling an agent over its own path `/mcp/agent/{agent}` needs, and seeing its prompt there."""
AGENT_PROMPTS: Final = "agents:read"
"""What the prompts of published agents need elsewhere."""

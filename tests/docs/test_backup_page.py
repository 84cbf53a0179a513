"""docs/backup.md describes the file and the limits that there are."""

from mcp_agents.security import sealed_file
from mcp_agents.server import backup
from tests.docs.pages import rows, section, text_of


def test_the_format_is_the_one_that_is_written() -> None:
    """The line in front, the kinds of frames, and how often a stream is taken."""
    page = section(text_of("backup.md"), "The file")
    assert f"`mcp-agents backup {sealed_file.FORMAT}`" in page
    kinds = {row[0] for row in rows(page) if len(row[0]) == 1}
    assert kinds == {
        each.decode() for each in (backup._STREAM, backup._DATA, backup._VOID, backup._END, backup._MANIFEST)
    }
    assert (backup._TRIES, backup._TRIES_LARGE, backup._LARGE) == (50, 5, 16 * 2**20)
    assert "up to fifty times, or five where it is\nabove 16 MiB" in text_of("backup.md")


def test_what_refers_is_taken_before_what_it_refers_to() -> None:
    """The pairs of the page, in the order of the code."""
    names = {
        "jobs": ["CB_JOBS"],
        "logs": [f"CB_EVENTS_{shard}" for shard in range(4)],
        "heads of sessions": ["KV_cb_agent_sessions"],
        "turns": ["CB_SESSIONS"],
        "sessions": ["KV_cb_agent_sessions"],
        "summaries": ["KV_cb_executions"],
        "histories": ["KV_cb_agent_state"],
        "memories": ["KV_cb_memories"],
        "budgets": ["KV_cb_ledger"],
        "slots": ["KV_cb_ledger"],
        "secrets": ["KV_cb_tool_servers", "KV_cb_models"],
        "data keys": ["KV_cb_vault"],
        "objects": ["OBJ_cb_objects"],
        "tenants": ["KV_cb_tenants"],
        "ends of trails": ["KV_cb_tenants"],
        "trails": ["CB_AUDIT"],
        "everything": [name for name in backup.ORDER if name not in ("KV_cb_tenants", "CB_AUDIT")],
    }
    pairs = [row[:2] for row in rows(section(text_of("backup.md"), "Which moment a backup shows")) if row[0] != "first"]
    assert len(pairs) > 8
    for first, then in pairs:
        if (first, then) == ("logs, four shards", "logs"):
            continue
        before = [name for part in first.split(", ") for name in names[part]]
        after = [name for part in then.split(", ") for name in names[part]]
        assert max(map(backup.ORDER.index, before)) < min(map(backup.ORDER.index, after)), (first, then)

"""The benchmarks in little time: they run against real processes and print every row that they promise.

Their figures are not looked at here, only that each is there and was measured.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

_EXECUTE = {
    "echo on the bare SDK",
    "bare loop behind the bare SDK",
    "bare loop, rule-based",
    "bare loop, direct client",
    "bare loop, litellm",
    "served, rule-based",
    "served, rule-based, built-in tool",
    "served, direct client",
    "served, litellm",
    "served, rule-based, own time, one at a time",
    "in process, direct, always",
    "in process, direct, interval",
    "in process, direct, no record",
    "in process, litellm, interval",
    "a submitted run's pick-up by an idle worker",
    "stream, bare aiohttp",
    "stream, direct client",
    "stream, litellm",
}
_EXECUTE_TARGETS = {
    "runs/s over HTTP, MCP and OAuth, direct client",
    "the same against the bare loop behind the SDK",
    "agent_execute against the echo",
    "own time, p50",
    "own time, p99",
    "memory of a run in flight, served",
    "start of serve to its first answer, warm",
    "memory of serve after it",
    "runs/s in process, direct client, interval",
    "runs/s in process, direct client, always",
    "price of durability in CPU",
    "runs/s through litellm against the bare litellm loop",
    "pick-up by an idle worker, p99",
    "streamed tokens/s per core against bare aiohttp",
    "streamed tokens/s per core against litellm",
}


def _benched(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mcp_agents.server.cli", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def _report(*arguments: str) -> dict[str, Any]:
    done = _benched(*arguments, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_execute_prints_every_way_and_every_target() -> None:
    """All floors, all ways of running, all targets; each way did some work."""
    report = _report("execute")
    assert {each["name"] for each in report["figures"]} == _EXECUTE
    assert {each["figure"] for each in report["targets"]} == _EXECUTE_TARGETS
    measured = [each for each in report["figures"] if each["cpu_ms"] is not None]
    assert all(each["runs_per_second"] > 0 for each in measured)
    assert len(measured) == len(_EXECUTE) - 2


def test_concurrent_prints_every_crowd() -> None:
    """Each crowd with each way to sync; every run of it finished."""
    report = _report("concurrent", "--no-litellm")
    assert [each["name"] for each in report["figures"]] == [
        "1 in flight, direct, always",
        "8 in flight, direct, always",
        "1 in flight, direct, interval",
        "8 in flight, direct, interval",
    ]
    assert all(each["p99_ms"] >= 2 * 50 for each in report["figures"])  # two answers of 50 ms
    assert [each["sense"] for each in report["targets"]] == ["at least", "at least", "at most"]


def test_a_missed_target_fails_the_check() -> None:
    """Eight runs are not ten thousand, and `--check` says so."""
    done = _benched("concurrent", "--no-litellm", "--quick", "--check")
    assert done.returncode == 1
    assert "missed: runs in flight at once" in done.stderr


@pytest.mark.parametrize("command", ["execute", "concurrent"])
def test_help_has_an_example(command: str) -> None:
    """As every command has."""
    assert f"Example: mcp-agents bench {command}" in _benched(command, "--help").stdout

"""The first command of the README, whole: its processes, its agents, and the worker it kills."""

import sys
from pathlib import Path
from subprocess import run

import pytest


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the demo printed on its way to its end."""
    program = [sys.executable, "-m", "mcp_agents.server.cli", "demo"]
    folder: Path = tmp_path_factory.mktemp("demo")
    done = run(program, capture_output=True, text=True, timeout=180, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_agent_was_asked_by_an_agent_and_answered(story: str) -> None:
    """Both levels of the first run came to an answer."""
    assert "42" in story
    assert "requested → started" in story


def test_the_run_of_the_killed_worker_ended_on_another(story: str) -> None:
    """The second run was begun twice, and says that its tool call, which may be repeated, was."""
    told = story.split("Second run", 1)[1]
    assert "was killed while the tool ran" in told
    assert "attempts 2" in told
    assert "started → retry → tool_done → model_answered → completed" in told

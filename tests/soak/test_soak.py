"""A short random-kill trial: nothing is lost, doubled silently or left behind, whoever was killed when.

No figure of time is looked at. `make soak` plays the long one.
"""

import os
from importlib import import_module
from pathlib import Path

import anyio
import pytest

from tests.soak.run import defects, table
from tests.soak.trial import Plan, trial
from tests.soak.verdict import judge

KILLS = 25


@pytest.mark.anyio
async def test_a_cluster_whose_processes_are_killed_at_random_loses_nothing_and_doubles_nothing_silently(
    tmp_path: Path,
) -> None:
    """Every accepted run ends once; every repeated effect is said; no job, lease, slot or reservation is left."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import_module("litellm")  # before the trial begins, since it takes seconds
    said: list[str] = []
    with anyio.fail_after(600):
        outcome = await trial(Plan(kills=KILLS, seconds=0.5, seed=20261123), tmp_path, said.append)
    verdict = judge(outcome.evidence)
    assert verdict.faults + defects(tmp_path) == [], table(outcome, verdict)
    assert len(outcome.cluster.kills) == KILLS
    assert verdict.statuses["completed"] > 0
    assert verdict.effects > 0

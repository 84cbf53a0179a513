"""docs/models.md names the virtual names, strategies, wishes, states and reactions that there are."""

from typing import get_args

from mcp_agents.kernel.routing import STRATEGIES, Routing
from mcp_agents.models import attempts, choosing, health, router
from mcp_agents.models.catalog import ALIASES, VIRTUAL
from mcp_agents.models.reactions import REACTIONS
from tests.docs.pages import rows, section, text_of


def table(title: str) -> list[tuple[str, ...]]:
    """The rows of a section without its head."""
    return list(rows(section(text_of("models.md"), title)))[1:]


def test_the_virtual_names_are_those_of_the_code() -> None:
    """With alias, strategy and task."""
    alias = {name: alias for alias, name in ALIASES.items()}
    expected = [(name, alias.get(name, ""), each.strategy, each.task) for name, each in VIRTUAL.items()]
    assert table("Names") == expected


def test_strategies_wishes_and_states_are_all_there() -> None:
    """And no other."""
    assert sorted(row[0] for row in table("Strategies")) == sorted(STRATEGIES)
    assert sorted(row[0] for row in table("Wishes and limits")) == sorted(Routing.__struct_fields__)
    assert sorted(row[0] for row in table("Health")) == sorted(get_args(health.State))


def test_the_reactions_are_those_of_the_table() -> None:
    """Where each error goes on to, and what it does to health."""
    expected = [
        (code, row.then, row.effect + (f": open for {row.rest_seconds:g} s" if row.effect == "refusal" else ""))
        for code, row in REACTIONS.items()
    ]
    assert table("Failover") == expected


def test_the_figures_are_those_of_the_code() -> None:
    """What the page says in numbers."""
    page = " ".join(text_of("models.md").split())
    assert attempts.ATTEMPTS == 4
    assert f"at most {router.ANSWER_SECONDS:g} s for its answer" in page
    assert f"up to {attempts.LONGEST_WAIT:g} s" in page
    assert (
        f"within {choosing.BALANCED_LATENCY_MS / 1000:g} s and succeed in {choosing.BALANCED_SUCCESS:.0%}".replace(
            "%", " %"
        )
        in page
    )
    assert f"not asked for {health.OPEN_SECONDS:g} s, doubled each time up to {health.OPEN_LONGEST:g} s" in page
    assert (health.FAILURES_IN_A_ROW, health.RATIO_CALLS, health.RATIO) == (5, 10, 0.5)
    assert f"given less than {health.FAIR_SECONDS:g} s" in page
    assert f"or {REACTIONS['MODEL_RATE_LIMITED'].rest_seconds:g} s |" in page

"""Adding to what a run was asked while it is under way: the model hears it at its next turn.

Above: the surface. Below: `posting`.
"""

import secrets
from typing import Final

from mcp_agents.execution.posting import Post
from mcp_agents.execution.run import ExecutionView, Run
from mcp_agents.kernel.errors import Conflict, Exhausted
from mcp_agents.kernel.events import Steered
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace

MESSAGE_LIMIT: Final = 20_000
STEERS: Final = 100
"""Messages that one run takes."""


async def steer(post: Post, space: TenantSpace, principal: Principal, execution_id: str, message: str) -> ExecutionView:
    """Returns when the message is in the run's log: whoever goes on with the run finds it there.

    Raises `NotFound` (`EXECUTION_UNKNOWN`, `SESSION_UNKNOWN`), `Denied` (`SESSION_DENIED`), `Conflict`
    (`EXECUTION_FINISHED`), `Exhausted` (`STEERS_EXHAUSTED`), `Unavailable` (`EXECUTION_BUSY`).
    """
    await post.may_join(space, principal, execution_id)
    event = Steered(by=principal.subject, message=message, mark=secrets.token_hex(8))
    return (await post.put(space, execution_id, event, _takes)).view()


def _takes(run: Run) -> None:
    if run.finished:
        raise Conflict("EXECUTION_FINISHED", "The run has ended.", "Start another one.")
    if len(run.steered) >= STEERS:
        raise Exhausted("STEERS_EXHAUSTED", f"A run takes {STEERS} messages.", "Start another run.")

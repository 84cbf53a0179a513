"""Background work with an owner: a task group that ends with its block and hides nothing.

The house starts no task outside a task group. An exception that is alone comes out as itself, so that a
caller can catch what was raised.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from mcp_agents.kernel.errors import AgentsError, Fenced


@asynccontextmanager
async def together() -> AsyncIterator[TaskGroup]:
    """A task group that is waited for; a lone exception comes out as itself."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        if alike := _spoken_for(group):
            raise alike from group
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is group:
            raise
        raise error from error.__cause__


def _spoken_for(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """One of several errors of the house that came at once: being fenced counts most."""
    leaves: list[BaseException] = []
    groups: list[BaseExceptionGroup[BaseException]] = [group]
    while groups:
        for each in groups.pop().exceptions:
            if isinstance(each, BaseExceptionGroup):
                groups.append(each)
            else:
                leaves.append(each)
    if len(leaves) < 2 or not all(isinstance(leaf, AgentsError | Fenced) for leaf in leaves):
        return None
    return next((leaf for leaf in leaves if isinstance(leaf, Fenced)), leaves[0])


@asynccontextmanager
async def background() -> AsyncIterator[TaskGroup]:
    """A task group for helpers of the block: they are cancelled when it is left."""
    async with together() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()

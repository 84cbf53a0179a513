"""Background work with an owner: a task group that ends with its block and hides nothing.

The house starts no task outside a task group. An exception that is alone comes out as itself, so that a
caller can catch what was raised.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def together() -> AsyncIterator[TaskGroup]:
    """A task group that is waited for; a lone exception comes out as itself."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is group:
            raise
        raise error from error.__cause__


@asynccontextmanager
async def background() -> AsyncIterator[TaskGroup]:
    """A task group for helpers of the block: they are cancelled when it is left."""
    async with together() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()

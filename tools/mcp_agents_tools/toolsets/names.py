"""Names of tools as the model sees them: `server__tool`, at most 64 of A-Z, a-z, 0-9, `_` and `-`.

Pure functions of the set of tools that are open together; the order does not matter. A name that had to
be changed, or that two tools would share, carries a hash of its origin. `toolbox` stands above.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

NAME_LIMIT: Final = 64

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")
_HASH_LENGTHS: Final = (0, 8, 16, 32)

Origin = tuple[str, str]
"""A server's name and its tool's own name."""


def model_names(origins: Iterable[Origin]) -> dict[Origin, str]:
    """A distinct name for each distinct origin."""
    level = {origin: 0 if _fits(origin) else 1 for origin in origins}
    while True:
        names = {origin: _named(origin, _HASH_LENGTHS[at]) for origin, at in level.items()}
        taken = Counter(names.values())
        shared = [origin for origin, name in names.items() if taken[name] > 1 and level[origin] < 3]
        if not shared:
            return names
        for origin in shared:
            level[origin] += 1


def _fits(origin: Origin) -> bool:
    name = "__".join(origin)
    return len(name) <= NAME_LIMIT and not _FOREIGN.search(name)


def _named(origin: Origin, hash_length: int) -> str:
    name = _FOREIGN.sub("_", "__".join(origin))
    if not hash_length:
        return name
    # A tool's name may hold anything, a server's no slash: the joint text has one reading.
    digest = hashlib.sha256("/".join(origin).encode("utf-8", "surrogatepass")).hexdigest()[:hash_length]
    return f"{name[: NAME_LIMIT - hash_length - 1]}_{digest}"

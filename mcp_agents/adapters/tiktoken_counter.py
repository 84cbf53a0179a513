"""The `TokenCounter` port on tiktoken, with the vocabularies that litellm's package brings along: nothing is fetched.

OpenAI's models are counted by their own vocabulary. Those of others are not public; they are counted by the newest one
here and a quarter more, which for English, code and most languages is on the safe side.
"""

import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Final

import tiktoken
from anyio import to_thread

_ANY: Final = "o200k_base"
_SHORT: Final = 2_000
"""So short a text is counted at once: a thread would cost more than it saves."""


class TiktokenCounter:
    """Counts in a thread where it takes long."""

    async def count(self, model: str, text: str) -> int:
        """See the port."""
        name, exact = _vocabulary(model)
        if len(text) <= _SHORT and name in _loaded:
            tokens = len(_loaded[name].encode_ordinary(text))
        else:
            tokens = await to_thread.run_sync(lambda: len(_encoding(name).encode_ordinary(text)))
        return tokens if exact else -(-tokens * 5 // 4)


_loaded: dict[str, tiktoken.Encoding] = {}


def _encoding(name: str) -> tiktoken.Encoding:
    if name not in _loaded:
        found = importlib.util.find_spec("litellm")  # finds the package without importing it
        places = (found.submodule_search_locations if found else None) or []
        for place in places:
            folder = Path(place) / "litellm_core_utils" / "tokenizers"
            os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))  # noqa: TID251 - tiktoken takes it from nowhere else
        _loaded[name] = tiktoken.get_encoding(name)
    return _loaded[name]


@cache
def _vocabulary(model: str) -> tuple[str, bool]:
    """The vocabulary of a provider's model, and whether it is the model's own."""
    provider, _, name = model.rpartition("/")
    if provider in ("", "openai", "azure"):
        try:
            return tiktoken.encoding_name_for_model(name), True
        except KeyError:
            return _ANY, False
    return _ANY, False

"""The `TokenCounter` port on tiktoken, with the vocabularies that litellm's package brings along: nothing is fetched.

OpenAI's models are counted by their own vocabulary, where it is one of those. All others are counted by the newest one
here and a quarter more, which for English, code and most languages is on the safe side.
"""

import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import Final

import tiktoken
from anyio import to_thread

_ANY: Final = "o200k_base"
_HERE: Final = frozenset({"o200k_base", "cl100k_base", "p50k_base"})
"""The vocabularies that are packaged; tiktoken would fetch any other from the network."""
_SHORT: Final = 2_000
"""So short a text is counted at once: a thread would cost more than it saves."""
_PIECE: Final = 100_000
"""Characters that are counted at once. The library's pattern gives up with a panic on a million blanks in a row, and
what is cut apart counts as a few tokens more at most."""


class TiktokenCounter:
    """Counts in a thread where it takes long."""

    async def count(self, model: str, text: str) -> int:
        """See the port."""
        name, exact = _vocabulary(model[:_NAME_LIMIT])
        if len(text) <= _SHORT and name in _loaded:
            tokens = len(_loaded[name].encode_ordinary(text))
        else:
            tokens = await to_thread.run_sync(_counted, name, text)
        return tokens if exact else -(-tokens * 5 // 4)


_NAME_LIMIT: Final = 200
_loaded: dict[str, tiktoken.Encoding] = {}


def _counted(name: str, text: str) -> int:
    encoding = _encoding(name)
    return sum(_of_piece(encoding, text[at : at + _PIECE]) for at in range(0, len(text), _PIECE))


def _of_piece(encoding: tiktoken.Encoding, text: str) -> int:
    try:
        return len(encoding.encode_ordinary(text))
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":  # what the library's Rust raises derives from no other error
            raise
        return len(text.encode("utf-8", "replace"))  # no vocabulary makes more tokens than there are bytes


def _encoding(name: str) -> tiktoken.Encoding:
    if name not in _loaded:
        found = importlib.util.find_spec("litellm")  # finds the package without importing it
        places = (found.submodule_search_locations if found else None) or []
        for place in places:
            folder = Path(place) / "litellm_core_utils" / "tokenizers"
            os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))  # noqa: TID251 - tiktoken takes it from nowhere else
        _loaded[name] = tiktoken.get_encoding(name)
    return _loaded[name]


@lru_cache(maxsize=1024)
def _vocabulary(model: str) -> tuple[str, bool]:
    """The vocabulary of a provider's model, and whether it is the model's own."""
    provider, _, name = model.rpartition("/")
    if provider in ("", "openai", "azure"):
        try:
            found = tiktoken.encoding_name_for_model(name)
        except KeyError:
            return _ANY, False
        return (found, True) if found in _HERE else (_ANY, False)
    return _ANY, False

"""Port: how many tokens a text is to a model. Above: sessions. Below: the tokenizers that come with litellm."""

from typing import Protocol


class TokenCounter(Protocol):
    """Counts. Never fails: a model whose tokenizer is not known is counted by another's, with room to spare."""

    async def count(self, model: str, text: str) -> int:
        """Tokens of a text to a provider's model (`openai/gpt-5-mini`; "" for any)."""
        ...

"""What an agent or a run may wish about the choice of its models: values only.

They are stored with agents and in `requested`; what they mean is decided in `models`.
"""

from typing import Literal, get_args

from msgspec import Struct

Strategy = Literal[
    "cost_optimized",
    "performance_first",
    "balanced",
    "reliability_first",
    "task_specific",
    "load_balanced",
    "failover_chain",
    "model_specific",
]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


class Routing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Wishes about the choice; what is absent is not wished.

    `strategy` replaces that of the virtual name. `fallback_models` are names of configured models, asked in
    this order when the chosen one fails. `preferred_providers` (`openai`) come first, in this order.
    `max_latency_ms` is for a whole answer; `max_cost_per_1k_tokens` is in micro-USD per 1,000 tokens, three
    input to one output. Models that hold `task_type` come first.
    """

    strategy: Strategy | None = None
    fallback_models: tuple[str, ...] = ()
    preferred_providers: tuple[str, ...] = ()
    max_latency_ms: int | None = None
    max_cost_per_1k_tokens: int | None = None
    task_type: str = ""

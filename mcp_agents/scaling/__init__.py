"""What a tenant may spend and how much of it may run at once: budgets, quotas, slots.

Definitions stand in `cb_capacity`, where reading them is free; what is being used stands in `cb_ledger`, one
record for each budget's window and for each limited tenant or agent. Every change of those is a
compare-and-set that `combiner` makes once for all callers of a process. Nothing here runs an agent or knows
a price: `execution` asks before a model call and tells afterwards. Beside it: models, discovery.
"""

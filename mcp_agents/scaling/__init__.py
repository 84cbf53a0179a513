"""How much may be used: budgets over many runs, quotas, and slots for runs at once.

What one run may use is `execution.limits`; who is next is the queue's business. Definitions lie in
`cb_capacity`, what is used in `cb_ledger`. Below: the kernel.
"""

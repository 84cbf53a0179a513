"""One run, durably: accepted, taken by a worker, folded from its log, advanced step by step, followed.

There is one implementation of running an agent. Waiting, streaming and listing are readers of its log.
Above: the surface. Below: agents, models and the kernel's ports. It knows no protocol and no broker.
"""

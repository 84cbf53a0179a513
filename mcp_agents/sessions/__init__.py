"""Sessions: conversations with an agent that outlast its runs.

A session is a head and a log. The head is one small record: who, which agent, its state, what it has cost, the turn
that is under way, and where its last turns are. The log holds one entry for each turn, appended once and never
rewritten. Here it is decided who may do what with a session and which turns a model is shown; turns are run and taken
down by `execution.conversing`. What agents keep from one session to the next, where they ask for it, is `memory`.
Above: execution and the surface; below: agents, the kernel.
"""

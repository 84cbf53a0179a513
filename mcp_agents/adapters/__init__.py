"""The ports, filled: NATS JetStream, memory, litellm, the rule-based model.

An adapter knows its port and nothing else of the house; only `server.compose` names one.
"""

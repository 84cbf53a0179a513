"""Benchmarks: our own figures beside a floor measured in the same run.

`load` drives requests, `floors` serves and measures what there is to stay close to, `execute` puts them side
by side. Nothing here is used by a running server.
"""

"""Benchmarks: our own figures beside a floor measured in the same run, and the targets they are held to.

`execute` and `concurrent` are the commands. Below them: `served` and `inside`, the product over HTTP and in this
process; `floors` and `echo`, what there is to stay close to; `provider`, who answers; `load`, `machine` and
`report`. Nothing here is used by a running server.
"""

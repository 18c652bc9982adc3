"""Measurements of a running broker from outside: `make bench`, or `python loadtests/bench.py --help`.

Nothing here is imported by the broker. It needs nothing but Python, the built broker and Linux.
"""

"""Load tests with locust: `make loadtest`, or `python -m loadtests.locustfiles.run --help`. docs/load-testing.md

A scenario is a locustfile here: user classes and a load shape. Beside them: what a message says and whether all came
(ledger.py; it knows neither locust nor gevent), a WebSocket (websocket.py), what all users of a process share
(generator.py), the master's part (conductor.py), and the command with its report (run.py, broker.py, report.py,
plots.py). `make bench` is another thing: it measures a broker more finely, without a library in between.
"""

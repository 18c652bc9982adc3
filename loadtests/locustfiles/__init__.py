"""Load tests with locust: `make loadtest`, or `python -m loadtests.locustfiles.run --help`. docs/load-testing.md

A scenario is a locustfile here: user classes and a load shape. Beside them: what a message says and whether all came
(ledger.py), what the rows of locust's table are called (names.py), the kinds of users (users.py) and shapes
(shapes.py), a WebSocket (websocket.py), what all users of a process share (generator.py), the master's part
(conductor.py), and the command with its report (run.py, broker.py, outcome.py, plots.py). locust patches the standard
library of the process that imports it; ledger, names, run, broker, outcome and plots do not.

`make bench` is another thing: it measures a broker more finely, without a library in between.
"""

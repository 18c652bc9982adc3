"""The HTTP API for back ends: publish, read, administer. In every worker, on a port of its own."""

"""Nothing of it is for Python; tests drive it through `_linked` and `_exchange`."""

"""Header lines of a request, for ``_request`` alone: Python sees nothing here."""

"""Who a connection is and what it may do: origin, permissions."""

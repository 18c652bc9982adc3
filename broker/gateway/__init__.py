"""What a connection may do: offer to decision, commands, refusals."""

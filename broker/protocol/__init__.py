"""The wire in Python terms: offer grammar, commands, events, close codes, positions. No I/O."""

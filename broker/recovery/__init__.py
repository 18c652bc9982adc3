"""What a worker does for those who come back: rings to read from, replays that end in the fan-out."""

"""Sequencing of every publish: the contract and its implementations."""

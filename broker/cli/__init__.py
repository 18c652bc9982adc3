"""The command line: `ws-broker`. A module for each group of commands; `main` puts them together."""

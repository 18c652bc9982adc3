"""`python -m broker`: the command line, for where the script is not on the PATH."""

from broker.cli.main import main

if __name__ == "__main__":
    main(prog_name="ws-broker")

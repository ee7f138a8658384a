"""`python -m prunekit` and `torchrun ... -m prunekit`: the same as the `prunekit` command."""

from prunekit.cli import main

if __name__ == "__main__":
    main()

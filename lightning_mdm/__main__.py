"""``python -m lightning_mdm`` is the command line."""

from lightning_mdm.cli import main

if __name__ == "__main__":
    main()

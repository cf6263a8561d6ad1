"""`python -m skipwise COMMAND`: the same as the console script `skipwise`, and what TorchX starts on every rank."""

from skipwise.components.__main__ import main

if __name__ == "__main__":
    main()

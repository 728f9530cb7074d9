"""Real processes under load, and a monkey that kills, ends, freezes and restarts them; then the books must be exact.

    make chaos SEED=7 ACTIONS=200 SECONDS=150

`plan` says what is done when, `fleet` does it, `load` asks meanwhile, `audit` holds the ledger against what the fake
providers received; `run` puts them together. A seed gives the same plan again.
"""

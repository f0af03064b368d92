"""Files, locks, TOML and seeds: what every other folder may use, and what uses none of them."""

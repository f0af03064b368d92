"""The sub-commands of `icpo`, a module each. None imports Prefect or torch before it runs."""

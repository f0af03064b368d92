"""What is shown of runs: tables, differences, lineage, rollouts, the report."""

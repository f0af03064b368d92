"""The Prefect server, work pool, worker, deployments and automations of this project."""

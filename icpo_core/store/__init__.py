"""The run store: tables, manifests, and which stage of which iteration is done."""

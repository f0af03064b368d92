"""The trainer: DeepSpeed around the policy."""

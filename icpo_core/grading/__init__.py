"""The verdict on one response, and the processes in which verdicts are made."""

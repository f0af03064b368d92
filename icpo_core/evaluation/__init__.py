"""Evaluation of a policy on benchmarks: questions, samples, scores, comparison."""

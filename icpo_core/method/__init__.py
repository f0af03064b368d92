"""The method, as functions over tables and tensors: prompts, selection, advantages, loss."""

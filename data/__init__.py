"""Data sets: the small problem family and base model that ship with us, and preparing others."""

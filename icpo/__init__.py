"""The door of the library, and the one name that an installed ICPO takes beside `icpo_core`.

`flows`, `tasks`, `data` and `configs` are links to the folders at the top of the checkout. In a
wheel they are folders. There is one name of each module, `icpo.flows.cli` and not `flows.cli`.
"""

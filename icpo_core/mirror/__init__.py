"""The copy of a run in an object store, by which another machine goes on."""

"""The nouns: frozen values, their names in the store, their canonical bytes. No I/O, no clock."""

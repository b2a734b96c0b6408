"""The custom resources as types: parsing, validation, names. Pure."""

"""Faces the operator: how things stand. Reads what the ledger published; changes nothing by itself."""

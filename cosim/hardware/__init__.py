"""Chips and systems as data: every number sourced, checked at load, lowered to arrays for the engines."""

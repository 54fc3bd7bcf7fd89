"""How each source's headline comparison is set up: its model, its baseline, its sizes. One file per
source."""

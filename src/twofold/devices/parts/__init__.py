"""Parts that unusual machines are composed of: DRAM with arithmetic in its banks, vector units. One file per
part."""

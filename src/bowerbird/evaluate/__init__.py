"""Pictures against pictures: how near a set of generated pictures comes to real ones, and whether it copies them."""

"""From artifacts to layers: wheels spliced, the base packed, byte code, small files."""
